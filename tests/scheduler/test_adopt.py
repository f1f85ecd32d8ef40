"""A branch off a running sample: its tail becomes a path, and goes on behind it."""

import numpy as np
import pytest
from tree_house import House, tokens

from treeserve.scheduler.tree.path import Path
from treeserve.scheduler.tree.segment import Segment


class Tail:
    """Five drawn tokens behind a pinned leaf, the last of them not yet computed."""

    def __init__(self, house: House, leaf: Segment, *drawn: int) -> None:
        self.house = house
        self.leaf = leaf
        self.drawn = tokens(*drawn)
        self.pages = house.pool.allocate(2)
        self.slots = house.pool.slots(self.pages)[: len(drawn)]
        house.tails = [self.pages]

    def adopt(self, count: int, num_computed: int) -> Segment:
        leaf = self.house.tree.adopt(
            self.leaf, self.drawn[:count], self.slots[:count], self.pages, num_computed, ""
        )
        self.house.tree.pin(leaf)
        self.house.tree.unpin(self.leaf)
        self.house.check()
        self.leaf = leaf
        return leaf


def test_a_branch_point_becomes_a_segment_that_others_find():
    house = House()
    tail = Tail(house, house.attach([1, 2]), 5, 6, 7, 8, 9)
    leaf = tail.adopt(3, 3)
    assert (leaf.end_position, leaf.is_pending) == (5, False)
    assert leaf.slots.tolist() == tail.slots[:3].tolist(), "nothing is copied"
    assert house.attach([1, 2, 5, 6, 7]) is leaf
    assert leaf.pages[-1] == tail.pages[0], "the tail goes on in the page of the branch point"
    assert house.pool.count(int(tail.pages[0])) == 2


def test_the_rest_of_a_tail_is_committed_from_the_middle_of_a_page():
    house = House()
    tail = Tail(house, house.attach([1, 2]), 5, 6, 7, 8, 9)
    leaf = tail.adopt(3, 3)
    assert house.tree.commit(leaf, tail.drawn[3:], tail.slots[3:], tail.pages, "") == 2
    house.pool.release(tail.pages)
    house.tails = []
    house.tree.unpin(leaf)
    house.check()
    assert house.num_cached([1, 2, 5, 6, 7, 8, 9]) == 7
    house.tree.clear()
    assert house.pool.num_free == 64


def test_a_last_token_that_is_not_computed_is_pending_in_the_slot_it_had():
    house = House()
    tail = Tail(house, house.attach([1, 2]), 5, 6, 7)
    leaf = tail.adopt(3, 2)
    assert leaf.is_pending
    assert (leaf.num_computed, leaf.slots[-1]) == (2, tail.slots[-1])
    alone = Tail(house, leaf, 8)
    house.tails = [tail.pages, alone.pages]
    house.tree.mark_computed(leaf, 3)
    assert len(alone.adopt(1, 0)) == 1


def test_what_the_tree_holds_already_is_used():
    house = House()
    held = house.attach([1, 2, 5, 6, 7, 8])
    tail = Tail(house, house.attach([1, 2]), 5, 6, 7, 9)
    num_held = house.tree.held_counts().sum()
    leaf = tail.adopt(3, 3)
    assert Path(held).segments()[-2] is leaf, "split where the branch point is"
    assert house.tree.held_counts().sum() == num_held + 1, "a page that two segments share"


def test_below_what_another_computes_the_rest_is_pending_too():
    house = House()
    other = house.attach([1, 2, 5, 6], computed=False)
    tail = Tail(house, house.attach([1, 2], computed=False), 5, 6, 7, 8)
    house.compute(tail.leaf)
    leaf = tail.adopt(4, 4)
    assert Path(leaf).segments()[1] is other
    assert (len(leaf), leaf.num_computed) == (2, 0), "no computed tokens below pending ones"
    assert leaf.slots.tolist() == tail.slots[2:].tolist()
    assert tail.leaf is leaf


def test_nothing_is_adopted_at_the_leaf_itself():
    house = House()
    leaf = house.attach([1, 2])
    empty = np.zeros(0, dtype=np.int32)
    assert house.tree.adopt(leaf, empty, empty, empty, 0, "") is leaf
    with pytest.raises(ValueError, match="are computed"):
        house.tree.adopt(leaf, tokens(1, 2), empty, empty, 0, "")


def test_the_tree_keeps_copies_of_what_a_tail_overwrites():
    house = House()
    tail = Tail(house, house.attach([1, 2]), 5, 6, 7)
    tail.adopt(3, 3)
    tail.drawn[:] = 0
    tail.slots[:] = 0
    house.check()
    assert house.num_cached([1, 2, 5, 6, 7]) == 5
