"""The tree in plain data, for people who want to see what is cached and why."""

from dataclasses import FrozenInstanceError

import pytest
from tree_house import House, prefix


def test_a_snapshot_says_what_each_segment_is_and_what_they_add_up_to():
    house = House(budget=100)
    house.cache([1, 2, 3, 4, 5, 6], namespace="a", public=4)
    house.tree.retain(prefix([1, 2, 3, 4], "a", 4), 2.0, 60)
    house.now += 5
    leaf = house.attach([1, 2, 3, 4, 8, 9], namespace="b", public=4, computed=False)
    house.kept.keep(leaf, ())
    seen = house.tree.snapshot()
    public, private, pending = sorted(seen.segments, key=lambda s: (s.start_position, s.pins))
    assert (public.namespace, public.num_tokens, public.pins, public.hits) == ("*", 4, 1, 2)
    assert (public.parent_id, private.parent_id) == (None, public.segment_id)
    assert (public.retained_weight, private.retained_weight) == (2.0, 0.0)
    assert (private.namespace, private.age_seconds, private.is_pending) == ("a", 5.0, False)
    assert (pending.age_seconds, pending.num_computed_tokens, pending.is_pending) == (0.0, 0, True)
    assert [s.has_kept_logits for s in (public, private, pending)] == [False, False, True]
    assert (seen.num_segments, seen.depth, seen.max_fan_out, seen.num_tokens) == (3, 2, 2, 8)
    assert (seen.num_pages, seen.num_evictable_pages, seen.num_retained_tokens) == (3, 1, 4)


def test_what_people_wrote_is_not_shown_unless_it_is_asked_for():
    house = House()
    house.cache([1, 2, 3])
    assert house.tree.snapshot().segments[0].token_ids is None
    assert house.tree.snapshot(include_tokens=True).segments[0].token_ids == (1, 2, 3)


def test_a_snapshot_does_not_change_with_the_tree():
    house = House()
    empty = house.tree.snapshot()
    assert (empty.num_segments, empty.depth, empty.max_fan_out) == (0, 0, 0)
    house.cache([1, 2, 3])
    seen = house.tree.snapshot()
    house.tree.clear()
    assert seen.num_tokens == 3
    with pytest.raises(FrozenInstanceError):
        seen.num_tokens = 4
