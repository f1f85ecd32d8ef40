"""Room is made where it costs least: recency, hits and the cost to compute again."""

import gc
import sys
from collections.abc import Callable

import numpy as np
import pytest
from tree_house import House, prefix

from treeserve.scheduler.tree.eviction import EVEN_POSITION
from treeserve.scheduler.tree.path import Path


def count_calls(action: Callable[[], object]) -> int:
    """Calls of Python functions: a cost that does not depend on the machine."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    # What other tests have left behind is not to be tidied up, and counted, in between.
    gc.disable()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def test_the_least_recently_used_goes_first_and_a_pinned_one_never():
    house = House()
    house.cache([1, 1, 1, 1])
    house.cache([2, 2, 2, 2])
    pinned = house.attach([3, 3, 3, 3])
    leaf = house.tree.match(prefix([1, 1, 1, 1]))
    house.tree.pin(leaf)
    house.tree.unpin(leaf)
    assert house.tree.evict(1) == 1
    assert house.num_cached([2, 2, 2, 2]) == 0
    assert house.num_cached([1, 1, 1, 1]) == 4
    assert house.tree.evict(10) == 1
    house.check()
    assert Path(pinned).segments() == (pinned,)
    assert house.tree.evicted_tokens == {"room": 8, "clear": 0}


def test_a_short_prompt_of_now_outlives_a_longer_one_of_long_ago():
    house = House()
    house.cache(range(20))
    for i in range(5):
        house.cache([100 + i] * 4)
    house.tree.evict(1)
    assert house.num_cached(range(20)) < 20
    assert all(house.num_cached([100 + i] * 4) for i in range(5))


def test_what_more_requests_shared_outlives_what_came_later():
    house = House()
    for _ in range(3):
        house.cache([1, 1, 1, 1])
    house.cache([2, 2, 2, 2])
    house.tree.evict(1)
    assert house.num_cached([1, 1, 1, 1]) == 4


def test_what_leaves_ages_what_stays():
    house = House()
    for _ in range(2):
        house.cache([1, 1, 1, 1])
    house.cache([2, 2, 2, 2])
    house.tree.evict(1)
    house.cache([3, 3, 3, 3])
    house.tree.evict(1)
    assert house.num_cached([1, 1, 1, 1]) == 0, "two hits of before the last turnover"
    assert house.num_cached([3, 3, 3, 3]) == 4


def test_both_parts_of_a_split_keep_the_hits():
    house = House()
    for _ in range(3):
        house.cache([1, 2, 3, 4])
    house.tree.match(prefix([1, 2]))
    assert [segment.hits for segment in house.tree.segments()] == [3, 3]


def test_pins_without_a_request_are_no_hits():
    house = House()
    house.cache([1, 1, 1, 1])
    house.cache([2, 2, 2, 2])
    leaf = house.tree.match(prefix([1, 1, 1, 1]))
    for _ in range(20):
        house.tree.pin(leaf)
        house.tree.unpin(leaf)
    assert leaf.hits == 1


def test_old_hits_fade_while_the_cache_turns_over():
    house = House(num_pages=4)
    for _ in range(30):
        house.cache([1, 1, 1, 1])
    num_turnovers = 0
    while house.num_cached([1, 1, 1, 1]):
        for _ in range(3):
            num_turnovers += 1
            house.cache([100 + num_turnovers] * 4)
        assert num_turnovers < 100, "a trunk of yesterday must leave at last"
    assert num_turnovers > 6


def test_tokens_late_in_a_context_are_worth_more_than_early_ones():
    house = House(num_pages=2 * EVEN_POSITION // 4 + 8)
    deep = np.arange(EVEN_POSITION).tolist()
    house.cache(deep)
    house.cache([*deep, 7, 7, 7, 7])
    house.cache([8, 8, 8, 8])
    house.tree.evict(1)
    assert house.num_cached([8, 8, 8, 8]) == 0
    assert house.num_cached([*deep, 7, 7, 7, 7]) == EVEN_POSITION + 4


def test_a_leaf_loses_only_as_many_pages_from_its_end_as_are_needed():
    house = House()
    house.cache(range(18))
    leaf = house.tree.match(prefix(range(18)))
    house.kept.keep(leaf, ())
    assert house.tree.evict(2) == 2
    house.check()
    assert house.num_cached(range(18)) == len(leaf) == 12
    assert leaf.kept_index is None, "logits after a token that is gone"
    assert house.tree.evicted_tokens["room"] == 6
    assert house.watcher.events[-1] == "truncated"
    again = house.attach(range(18))
    assert (again.parent, again.start_position) == (leaf, 12)


@pytest.mark.parametrize("num_pages", [1, 2, 3, 4])
def test_a_page_that_the_segment_above_holds_does_not_come_free(num_pages):
    house = House()
    house.cache(range(14))
    house.tree.pin(house.tree.match(prefix(range(6))))
    house.check()
    assert house.tree.num_evictable_pages == 2
    assert house.tree.evict(num_pages) == min(num_pages, 2)
    house.check()
    assert house.num_cached(range(14)) == {1: 12, 2: 8}.get(num_pages, 6)


def test_many_segments_in_one_page_free_it_with_the_last():
    house = House(num_pages=1)
    house.cache([1, 2, 3, 4])
    for end in (3, 2, 1):
        house.tree.match(prefix([1, 2, 3, 4][:end]))
    assert len(house.tree.segments()) == 4
    assert house.tree.evict(1) == 1
    house.check()
    assert house.tree.segments() == []


def test_no_namespace_is_preferred():
    house = House()
    house.cache([1, 1, 1, 1], namespace="a")
    house.cache([1, 1, 1, 1], namespace="b", public=4)
    house.cache([1, 1, 1, 1], namespace="c")
    for namespace, public in (("a", 0), ("b", 4), ("c", 0)):
        assert house.num_cached([1, 1, 1, 1], namespace, public) == 4
        house.tree.evict(1)
        assert house.num_cached([1, 1, 1, 1], namespace, public) == 0


def test_clearing_is_counted_apart_and_does_not_age_what_is_left():
    house = House()
    house.cache([1, 1, 1, 1])
    house.cache(range(20, 30))
    inflation = house.tree._order._inflation
    assert house.tree.clear() == 14
    assert house.tree.evicted_tokens == {"room": 0, "clear": 14}
    assert house.tree._order._inflation == inflation


def test_making_room_costs_in_proportion_to_what_leaves():
    costs = []
    for num_leaves in (400, 4000):
        house = House(num_pages=num_leaves)
        for i in range(num_leaves):
            house.tree.unpin(house.attach_prefix(prefix([i])))
        costs.append(count_calls(lambda house=house: house.tree.evict(10)))
    assert costs[1] <= costs[0] * 1.2, "the size of the cache is in the price"


def test_a_long_prompt_costs_no_python_for_each_token_or_page():
    costs = []
    for num_tokens in (400, 40_000):
        house = House(num_pages=12_000)
        wanted = prefix(range(num_tokens))
        costs.append(count_calls(lambda house=house, wanted=wanted: house.attach_prefix(wanted)))
        num_pages = num_tokens // 8
        costs[-1] += count_calls(lambda house=house, n=num_pages: house.tree.evict(n))
    assert costs[1] <= costs[0] * 1.2
