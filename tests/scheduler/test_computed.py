"""Prefixes that bring their KV: whole in the tree as computed, or not there at all."""

import numpy as np
import pytest
from tree_house import PAGE, House, prefix

from treeserve.scheduler.tree.computed import computed_slots, insert_computed
from treeserve.scheduler.tree.path import Path


class Paper:
    """What was written to which slot."""

    def __init__(self, values: list[int]) -> None:
        self.values = values
        self.slots: dict[int, int] = {}

    def write(self, slots: np.ndarray, start: int) -> None:
        assert len(slots) == len(self.values) - start
        self.slots |= dict(zip(slots.tolist(), self.values[start:], strict=True))


def restore(house: House, values: list[int], namespace: str = ""):
    paper = Paper(values)
    inserted = insert_computed(house.tree, prefix(values, namespace), paper.write)
    house.check()
    return inserted, paper


def test_all_of_it_is_computed_and_nobody_holds_it():
    house = House()
    values = list(range(10))
    inserted, paper = restore(house, values)
    assert inserted.num_inserted == 10
    assert house.num_cached(values) == 10
    slots = computed_slots(house.tree, prefix(values)).tolist()
    assert [paper.slots[slot] for slot in slots] == values
    house.tree.clear()
    assert house.pool.num_free == 64


@pytest.mark.parametrize("held", range(1, 10))
def test_what_the_tree_holds_is_not_written_again(held):
    house = House()
    values = list(range(10))
    house.cache([*values[:held], 77, 78])
    before = computed_slots(house.tree, prefix(values)).tolist()
    inserted, paper = restore(house, values)
    assert inserted.num_inserted == 10 - held
    assert computed_slots(house.tree, prefix(values)).tolist()[:held] == before
    assert sorted(paper.slots.values()) == values[held:]
    assert house.num_cached([*values[:held], 77, 78]) == held + 2


def test_a_prefix_that_is_there_takes_nothing():
    house = House()
    house.cache([1, 2, 3, 4])
    num_free = house.pool.num_free
    inserted, paper = restore(house, [1, 2, 3])
    assert (inserted.num_inserted, paper.slots, house.pool.num_free) == (0, {}, num_free)


def test_nothing_computed_hangs_beneath_what_is_pending():
    house = House()
    leaf = house.attach([1, 2, 3], computed=False)
    inserted, paper = restore(house, [1, 2, 5, 6])
    assert (inserted.num_inserted, inserted.num_pending_end) == (0, 2)
    assert (paper.slots, house.num_cached([1, 2, 5, 6])) == ({}, 0)
    house.compute(leaf)
    assert restore(house, [1, 2, 5, 6])[0].num_inserted == 2


def test_what_is_not_needed_makes_room_and_what_is_pinned_stays():
    house = House(num_pages=4)
    house.cache(list(range(100, 108)))
    pinned = house.attach([1, 2, 3, 4])
    inserted, _ = restore(house, list(range(10, 10 + 3 * PAGE)))
    assert inserted.num_inserted == 3 * PAGE
    assert Path(pinned).num_tokens == 4
    assert house.num_cached([1, 2, 3, 4]) == 4


def test_without_room_nothing_is_evicted_or_taken():
    house = House(num_pages=4)
    house.attach([1, 2, 3, 4])
    house.cache([7, 8])
    inserted, paper = restore(house, list(range(10, 10 + 4 * PAGE)))
    assert (inserted.num_inserted, inserted.num_missing_pages) == (0, 4)
    assert (paper.slots, house.num_cached([7, 8])) == ({}, 2)


@pytest.mark.parametrize("held", [0, 3])
def test_a_write_that_fails_leaves_the_tree_as_it_was(held):
    house = House()
    values = list(range(10))
    if held:
        house.cache(values[:held])
    num_free = house.pool.num_free

    def fail(slots, start):
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        insert_computed(house.tree, prefix(values), fail)
    house.check()
    assert (house.num_cached(values), house.pool.num_free) == (held, num_free)


def test_namespaces_do_not_meet():
    house = House()
    values = list(range(10))
    restore(house, values, "a")
    assert house.num_cached(values, "b") == 0
    assert len(computed_slots(house.tree, prefix(values, "b"))) == 0
    assert restore(house, values, "b")[0].num_inserted == 10


def test_what_was_retained_before_it_was_there_is_retained_now():
    house = House(budget=100)
    values = list(range(10))
    house.tree.retain(prefix(values), 1.0, 100.0)
    restore(house, values)
    assert house.tree.num_retained_tokens == 10


@pytest.mark.parametrize("num_retained", [1, PAGE, 7])
def test_a_retained_beginning_that_comes_with_more_is_computed_too(num_retained):
    """Retaining splits what comes in; all of the parts are written."""
    house = House(budget=100)
    values = list(range(10))
    house.tree.retain(prefix(values[:num_retained]), 1.0, 100.0)
    inserted, paper = restore(house, values)
    assert inserted.num_inserted == house.num_cached(values) == 10
    assert sorted(paper.slots.values()) == values
    assert house.tree.num_retained_tokens == num_retained


def test_only_what_is_computed_is_told_of():
    house = House()
    leaf = house.attach([1, 2, 3, 4, 5], computed=False)
    house.tree.mark_computed(leaf, 3)
    assert len(computed_slots(house.tree, prefix([1, 2, 3, 4, 5]))) == 3
    assert len(computed_slots(house.tree, prefix([1, 2]))) == 2
    assert len(computed_slots(house.tree, prefix([9]))) == 0
    house.check()
