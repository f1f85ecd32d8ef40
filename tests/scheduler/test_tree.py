"""The radix tree finds, splits, commits and evicts without touching what is in use."""

import numpy as np
import pytest
from tree_house import House, prefix, tokens

from treeserve.scheduler.tree.path import Path


def test_a_match_ends_inside_a_segment_and_splits_it_without_copying():
    house = House()
    lower = house.attach([1, 2, 3, 4, 5, 6, 7], computed=True)
    slots, pages = lower.slots, lower.pages
    upper = house.tree.match(prefix([1, 2, 3, 4, 5, 9]))
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
    leaf = house.attach([*range(10)], computed=False)
    house.tree.mark_computed(leaf, 6)
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
    assert house.num_cached([*range(10)]) == 6
    house.tree.clear()
    assert house.pool.num_free == 64


def test_a_split_of_nothing_is_an_error():
    house = House()
    leaf = house.attach([1, 2], computed=True)
    for num_tokens in (0, 2):
        with pytest.raises(ValueError, match="cannot split"):
            house.tree.split(leaf, num_tokens)


def test_kept_logits_stay_with_the_part_that_ends_there():
    house = House()
    leaf = house.attach([1, 2, 3, 4], computed=True)
    entry = house.kept.keep(leaf, ())
    upper = house.tree.split(leaf, 2)
    assert (leaf.kept_index, upper.kept_index) == (entry, None)
    house.tree.unpin(leaf)
    house.tree.clear()
    house.check()
    assert house.kept.keep(house.attach([9], computed=True), ()) is not None


def test_pending_tokens_match_too_and_count_as_not_computed():
    house = House()
    leaf = house.attach([1, 2, 3, 4], computed=False)
    house.tree.mark_computed(leaf, 3)
    assert house.attach([1, 2, 3, 4], computed=False) is leaf
    assert leaf.pins == 2
    assert house.num_cached([1, 2, 3, 4]) == 3
    assert house.num_cached([1, 2]) == 2
    assert house.num_cached([2]) == 0


def test_tokens_that_nobody_needs_any_more_leave_and_computed_ones_stay():
    house = House()
    first = house.attach(range(12), computed=False)
    second = house.attach([*range(12), 50, 51], computed=False)
    house.tree.mark_computed(first, 5)
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
    leaf = house.attach([*range(8)], computed=False)
    assert house.attach([*range(8)], computed=False) is leaf
    house.tree.unpin(leaf)
    house.check()
    assert leaf.is_pending
    assert len(leaf) == 8


def test_a_parent_becomes_a_leaf_when_its_children_are_gone():
    house = House()
    house.cache([1, 2, 3, 4])
    house.cache([1, 2, 3, 4, 5, 6, 7, 8])
    house.cache([1, 2, 3, 4, 9, 9, 9, 9])
    assert house.tree.clear() == 12
    house.check()
    assert house.pool.num_free == 64
    assert house.tree.segments() == []


def test_a_page_in_two_segments_comes_free_with_the_second():
    house = House()
    house.cache([1, 2, 3, 4, 5, 6])
    upper = house.tree.match(prefix([1, 2, 3, 4, 5]))
    house.tree.pin(upper)
    house.check()
    assert house.tree.num_evictable_pages == 0
    assert house.tree.evict(1) == 0
    house.check()
    house.tree.unpin(upper)
    assert house.tree.num_evictable_pages == 2


def test_insert_evicts_what_it_needs_and_says_when_there_is_no_room():
    house = House(num_pages=3)
    house.cache([*range(8)])
    root = house.tree.match(prefix([9]))
    assert house.tree.insert_pending(root, prefix(range(9, 22))) is None
    house.check()
    leaf = house.attach([*range(20, 32)], computed=True)
    assert len(leaf.pages) == 3
    assert house.num_cached([*range(8)]) == 0


def test_commit_keeps_only_what_the_tree_does_not_hold():
    house = House()
    leaf = house.attach([1, 2], computed=True)
    for drawn, num_new in [
        ((5, 6, 7, 8, 9), 5),
        ((5, 6, 7, 8, 9), 0),
        ((5, 6, 7), 0),
        ((5, 6, 7, 1, 1, 1), 3),
        ((5, 6, 7, 8, 9, 4), 1),
    ]:
        pages = house.pool.allocate(house.pool.pages_for(len(drawn)))
        slots = house.pool.slots(pages)[: len(drawn)]
        assert house.tree.commit(leaf, tokens(*drawn), slots, pages, "") == num_new
        house.pool.release(pages)
        house.check()
        assert house.num_cached([1, 2, *drawn]) == 2 + len(drawn)
    house.tree.unpin(leaf)
    house.tree.clear()
    assert house.pool.num_free == 64


@pytest.mark.parametrize("num_computed", [0, 1, 2, 3])
def test_commit_keeps_nothing_below_tokens_that_are_pending(num_computed):
    house = House()
    leaf = house.attach([1, 2], computed=True)
    pending = house.attach([1, 2, 5, 6, 7], computed=False)
    house.tree.mark_computed(pending, num_computed)
    for drawn in [(5, 6, 7, 8), (5, 6, 9)]:
        pages = house.pool.allocate(1)
        num_new = house.tree.commit(
            leaf, tokens(*drawn), house.pool.slots(pages)[: len(drawn)], pages, ""
        )
        may = num_computed == 3 or (drawn == (5, 6, 9) and num_computed == 2)
        assert num_new == (1 if may else 0)
        house.pool.release(pages)
        house.check()


def test_an_entry_of_the_kept_table_goes_to_the_most_recent():
    house = House()
    a, b, c = (house.attach([i], computed=True) for i in range(3))
    first, second = house.kept.keep(a, ()), house.kept.keep(b, ())
    assert house.kept.use(a) == first
    assert house.kept.keep(c, {first, second}) is None
    assert house.kept.keep(c, ()) == second
    assert b.kept_index is None
    house.check()
    with pytest.raises(ValueError, match="kept already"):
        house.kept.keep(c, ())


def test_a_prefix_is_located_without_a_change_to_the_tree():
    house = House()
    leaf = house.attach(range(10), computed=False)
    house.tree.mark_computed(leaf, 6)
    num_events = len(house.watcher.events)
    location = house.tree.locate(prefix([*range(8), 99]))
    assert (location.segment, location.num_matched, location.num_computed) == (leaf, 8, 6)
    assert not location.is_whole
    nowhere = house.tree.locate(prefix([7]))
    assert nowhere.segment.is_root
    assert (nowhere.num_matched, nowhere.num_computed) == (0, 0)
    assert len(house.watcher.events) == num_events


def test_two_who_find_nothing_at_once_share_one_root():
    house = House()
    first, second = (house.tree.match(prefix([i, i])) for i in (1, 2))
    assert first is second, "an index by segments needs one root for a namespace"
    for i in (1, 2):
        house.tree.pin(house.tree.insert_pending(first, prefix([i, i])))
        house.check()
    assert len(house.tree.segments()) == 2


def test_a_listener_hears_of_every_change_after_it_happened():
    house = House(num_pages=8)
    house.cache(range(12))
    house.tree.unpin(house.attach([*range(6), 70, 71]))
    assert house.watcher.events == ["attached", "split", "attached"]
    house.tree.evict(3)
    house.check()
    assert house.watcher.events[3:] == ["detached", "detached", "truncated"]
    house.tree.clear()
    house.check()
    assert house.watcher.parents == {}
    with pytest.raises(ValueError, match="is told already"):
        house.tree.watch(house.watcher)


def test_pins_on_a_deep_path_are_counted_once_for_each_page():
    house = House()
    for end in range(1, 11):
        house.cache(range(end))
    leaf = house.tree.match(prefix(range(10)))
    house.tree.pin(leaf)
    house.check()
    assert house.tree.num_evictable_pages == 0
    house.tree.unpin(leaf)
    house.check()
    assert house.tree.num_evictable_pages == 10
    with pytest.raises(ValueError, match="not pinned"):
        house.tree.unpin(leaf)
    house.check()
