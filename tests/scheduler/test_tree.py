"""The radix tree finds, splits, commits and evicts without touching what is in use."""

import numpy as np
import pytest

from treeserve.scheduler.kept import KeptLogits
from treeserve.scheduler.path import Path
from treeserve.scheduler.pool import PagePool
from treeserve.scheduler.segment import Segment
from treeserve.scheduler.tree import RadixTree

PAGE = 4


def tokens(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


class House:
    """A pool, a table and a tree, with shortcuts for what the scheduler does to them."""

    def __init__(self, num_pages: int = 64) -> None:
        self.pool = PagePool(num_pages, PAGE)
        self.kept = KeptLogits(2)
        self.tree = RadixTree(self.pool, self.kept)

    def attach(self, prompt: np.ndarray, *, computed: bool, namespace: str = "") -> Segment:
        """Pins the prompt's path; returns its leaf."""
        leaf = self.attach_unchecked(prompt, computed=computed, namespace=namespace)
        self.check()
        return leaf

    def attach_unchecked(
        self, prompt: np.ndarray, *, computed: bool = True, namespace: str = ""
    ) -> Segment:
        matched = self.tree.match(namespace, prompt)
        self.tree.pin(matched)
        missing = prompt[matched.end_position :]
        if len(missing) == 0:
            return matched
        leaf = self.tree.insert_pending(matched, missing)
        assert leaf is not None
        self.tree.pin(leaf)
        self.tree.unpin(matched)
        leaf.num_computed = len(leaf) if computed else 0
        return leaf

    def cache(self, prompt: np.ndarray, namespace: str = "") -> None:
        self.tree.unpin(self.attach(prompt, computed=True, namespace=namespace))
        self.check()

    def check(self) -> None:
        self.tree.check()
        self.pool.check(self.tree.held_counts())


def test_a_match_ends_inside_a_segment_and_splits_it_without_copying():
    house = House()
    lower = house.attach(tokens(1, 2, 3, 4, 5, 6, 7), computed=True)
    slots, pages = lower.slots, lower.pages
    upper = house.tree.match("", tokens(1, 2, 3, 4, 5, 9))
    house.check()
    assert (upper.end_position, lower.start_position, lower.end_position) == (5, 5, 7)
    assert Path(lower).segments() == (upper, lower)
    assert np.shares_memory(upper.slots, slots)
    assert np.shares_memory(lower.slots, slots)
    assert np.concatenate([upper.slots, lower.slots]).tolist() == slots.tolist()
    assert upper.pages.tolist() == pages.tolist(), "page 1 lies in both"
    assert lower.pages.tolist() == pages[1:].tolist()
    assert house.pool.count(int(pages[1])) == 2
    assert upper.pins == lower.pins == 1


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 5, 7, 8, 9])
def test_splits_anywhere_keep_the_books(num_tokens):
    house = House()
    leaf = house.attach(tokens(*range(10)), computed=False)
    leaf.num_computed = 6
    upper = house.tree.split(leaf, num_tokens)
    house.check()
    assert upper.num_computed == min(6, num_tokens)
    assert upper.num_computed + leaf.num_computed == 6
    for at in (2, 1):
        if at < len(leaf):
            house.tree.split(leaf, at)
            house.check()
    house.tree.unpin(leaf)
    house.check()
    assert house.tree.count_computed("", tokens(*range(10))) == 6
    house.tree.clear()
    assert house.pool.num_free == 64


def test_a_split_of_nothing_is_an_error():
    house = House()
    leaf = house.attach(tokens(1, 2), computed=True)
    for num_tokens in (0, 2):
        with pytest.raises(ValueError, match="cannot split"):
            house.tree.split(leaf, num_tokens)


def test_kept_logits_stay_with_the_part_that_ends_there():
    house = House()
    leaf = house.attach(tokens(1, 2, 3, 4), computed=True)
    entry = house.kept.keep(leaf, ())
    upper = house.tree.split(leaf, 2)
    assert (leaf.kept_index, upper.kept_index) == (entry, None)
    house.tree.unpin(leaf)
    house.tree.clear()
    house.check()
    assert house.kept.keep(house.attach(tokens(9), computed=True), ()) is not None


def test_pending_tokens_match_too_and_count_as_not_computed():
    house = House()
    leaf = house.attach(tokens(1, 2, 3, 4), computed=False)
    leaf.num_computed = 3
    assert house.attach(tokens(1, 2, 3, 4), computed=True) is leaf
    assert leaf.pins == 2
    assert house.tree.count_computed("", tokens(1, 2, 3, 4)) == 3
    assert house.tree.count_computed("", tokens(1, 2)) == 2
    assert house.tree.count_computed("", tokens(2)) == 0


def test_tokens_that_nobody_needs_any_more_leave_and_computed_ones_stay():
    house = House()
    prompt = tokens(*range(12))
    first = house.attach(prompt, computed=False)
    second = house.attach(np.append(prompt, tokens(50, 51)), computed=False)
    first.num_computed = 5
    house.tree.unpin(second)
    house.check()
    assert first.is_pending, "the first still needs all of it"
    assert not first.children
    house.tree.unpin(first)
    house.check()
    assert len(first) == 5
    assert house.tree.held_counts().sum() == 2, "the third page came free"
    assert house.tree.num_evictable_pages == 2


def test_whoever_is_left_carries_on_with_a_pending_segment():
    house = House()
    leaf = house.attach(tokens(*range(8)), computed=False)
    assert house.attach(tokens(*range(8)), computed=False) is leaf
    house.tree.unpin(leaf)
    house.check()
    assert leaf.is_pending
    assert len(leaf) == 8


def test_eviction_takes_least_recently_used_leaves_and_never_a_pinned_one():
    house = House()
    house.cache(tokens(1, 1, 1, 1))
    house.cache(tokens(2, 2, 2, 2))
    pinned = house.attach(tokens(3, 3, 3, 3), computed=True)
    house.cache(tokens(1, 1, 1, 1))
    assert house.tree.evict(1) == 1
    assert house.tree.count_computed("", tokens(2, 2, 2, 2)) == 0
    assert house.tree.count_computed("", tokens(1, 1, 1, 1)) == 4
    assert house.tree.evict(10) == 1
    house.check()
    assert Path(pinned).segments() == (pinned,)
    assert house.tree.num_evicted_tokens == 8


def test_a_parent_becomes_a_leaf_when_its_children_are_gone():
    house = House()
    house.cache(tokens(1, 2, 3, 4))
    house.cache(tokens(1, 2, 3, 4, 5, 6, 7, 8))
    house.cache(tokens(1, 2, 3, 4, 9, 9, 9, 9))
    assert house.tree.clear() == 12
    house.check()
    assert house.pool.num_free == 64
    assert house.tree.segments() == []


def test_a_page_in_two_segments_comes_free_with_the_second():
    house = House()
    house.cache(tokens(1, 2, 3, 4, 5, 6))
    upper = house.tree.match("", tokens(1, 2, 3, 4, 5))
    house.tree.pin(upper)
    house.check()
    assert house.tree.num_evictable_pages == 0
    assert house.tree.evict(1) == 0
    house.check()
    house.tree.unpin(upper)
    assert house.tree.num_evictable_pages == 2


def test_insert_evicts_what_it_needs_and_says_when_there_is_no_room():
    house = House(num_pages=3)
    house.cache(tokens(*range(8)))
    root = house.tree.match("", tokens(9))
    assert house.tree.insert_pending(root, tokens(*range(20, 33))) is None
    house.check()
    leaf = house.attach(tokens(*range(20, 32)), computed=True)
    assert len(leaf.pages) == 3
    assert house.tree.count_computed("", tokens(*range(8))) == 0


def test_extend_keeps_only_what_the_tree_does_not_hold():
    house = House()
    leaf = house.attach(tokens(1, 2), computed=True)
    for drawn, num_new in [
        ((5, 6, 7, 8, 9), 5),
        ((5, 6, 7, 8, 9), 0),
        ((5, 6, 7), 0),
        ((5, 6, 7, 1, 1, 1), 3),
        ((5, 6, 7, 8, 9, 4), 1),
    ]:
        pages = house.pool.allocate(house.pool.pages_for(len(drawn)))
        slots = house.pool.slots(pages)[: len(drawn)]
        assert house.tree.extend(leaf, tokens(*drawn), slots, pages) == num_new
        house.pool.release(pages)
        house.check()
        assert house.tree.count_computed("", tokens(1, 2, *drawn)) == 2 + len(drawn)
    house.tree.unpin(leaf)
    house.tree.clear()
    assert house.pool.num_free == 64


@pytest.mark.parametrize("num_computed", [0, 1, 2, 3])
def test_extend_keeps_nothing_below_tokens_that_are_pending(num_computed):
    house = House()
    leaf = house.attach(tokens(1, 2), computed=True)
    pending = house.attach(tokens(1, 2, 5, 6, 7), computed=False)
    pending.num_computed = num_computed
    for drawn in [(5, 6, 7, 8), (5, 6, 9)]:
        pages = house.pool.allocate(1)
        num_new = house.tree.extend(
            leaf, tokens(*drawn), house.pool.slots(pages)[: len(drawn)], pages
        )
        may = num_computed == 3 or (drawn == (5, 6, 9) and num_computed == 2)
        assert num_new == (1 if may else 0)
        house.pool.release(pages)
        house.check()


def test_namespaces_share_nothing_and_leave_nothing():
    house = House()
    house.cache(tokens(1, 2, 3), namespace="a")
    assert house.tree.count_computed("b", tokens(1, 2, 3)) == 0
    house.cache(tokens(1, 2, 3), namespace="b")
    assert len(house.tree.segments()) == 2
    house.tree.clear()
    house.check()
    assert house.tree.segments() == []


def test_eviction_costs_in_proportion_to_what_it_evicts():
    house = House(num_pages=4000)
    for i in range(4000):
        house.tree.unpin(house.attach_unchecked(tokens(i)))
    compared = 0

    def count(segment: Segment) -> tuple[int, int]:
        nonlocal compared
        compared += 1
        return (segment.last_used, segment.serial)

    house.tree._order._key = count
    assert house.tree.evict(10) == 10
    assert compared <= 10 * 20


def test_an_entry_of_the_kept_table_goes_to_the_most_recent():
    house = House()
    a, b, c = (house.attach(tokens(i), computed=True) for i in range(3))
    first, second = house.kept.keep(a, ()), house.kept.keep(b, ())
    assert house.kept.use(a) == first
    assert house.kept.keep(c, {first, second}) is None
    assert house.kept.keep(c, ()) == second
    assert b.kept_index is None
    house.check()
    with pytest.raises(ValueError, match="kept already"):
        house.kept.keep(c, ())
