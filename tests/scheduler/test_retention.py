"""Retained prefixes are worth more for a while, within a budget, and never locked."""

import pytest
from tree_house import House, prefix, tokens

from treeserve.errors import InvalidRequest, OverBudget


def test_a_retained_prefix_outlives_what_is_used_later_until_its_time_is_over():
    house = House(budget=100)
    house.cache([1, 1, 1, 1])
    retained = house.tree.retain(prefix([1, 1, 1, 1]), weight=2.0, ttl_seconds=60)
    assert (retained.num_held_tokens, retained.expires_at) == (4, house.now + 60)
    house.cache([2, 2, 2, 2])
    house.tree.evict(1)
    assert house.num_cached([1, 1, 1, 1]) == 4
    house.cache([3, 3, 3, 3])
    assert house.tree.expire(house.now + 59) == ()
    assert house.tree.expire(house.now + 60) == (retained.retained_id,)
    house.check()
    assert house.tree.retained() == ()
    house.tree.evict(1)
    assert house.num_cached([1, 1, 1, 1]) == 0


def test_it_is_a_bias_and_not_a_lock():
    house = House(num_pages=2, budget=100)
    house.cache(range(8))
    house.tree.retain(prefix(range(8)), weight=1e9, ttl_seconds=60)
    assert house.tree.num_evictable_pages == 2
    house.cache(range(20, 28))
    assert house.tree.num_retained_tokens == 0
    house.check()


def test_retained_tokens_are_counted_once_and_never_exceed_the_budget():
    house = House(budget=8)
    house.cache([1, 2, 3, 4, 5, 6])
    house.cache([1, 2, 3, 9, 9, 9])
    house.tree.retain(prefix([1, 2, 3, 4]), 1.0, 60)
    house.tree.retain(prefix([1, 2, 3, 4, 5, 6]), 1.0, 60)
    house.check()
    assert house.tree.num_retained_tokens == 6
    with pytest.raises(OverBudget, match=r"3 cached tokens .* 6 of the 8 tokens") as caught:
        house.tree.retain(prefix([1, 2, 3, 9, 9, 9]), 1.0, 60)
    assert caught.value.num_left == 2
    house.check()
    house.tree.retain(prefix([1, 2, 3, 9, 9]), 1.0, 60)
    house.check()
    assert house.tree.num_retained_tokens == 8


def test_a_release_leaves_what_others_retain():
    house = House(budget=100)
    house.cache([1, 2, 3, 4, 5, 6])
    long = house.tree.retain(prefix([1, 2, 3, 4, 5, 6]), 1.0, 60)
    short = house.tree.retain(prefix([1, 2]), 5.0, 60)
    assert [r.retained_id for r in house.tree.retained()] == [1, 2]
    weights = [s.retained_weight for s in house.tree.segments()]
    assert weights == [5.0, 1.0], "the greatest counts"
    assert house.tree.release_retained(long.retained_id)
    assert not house.tree.release_retained(long.retained_id)
    house.check()
    assert house.tree.num_retained_tokens == 2
    assert house.tree.release_retained(short.retained_id)
    house.check()
    assert house.tree.num_retained_tokens == 0


def test_what_was_evicted_is_retained_when_it_is_computed_again():
    house = House(budget=100)
    house.cache(range(10))
    house.tree.retain(prefix(range(10)), 1.0, 60)
    house.tree.evict(1)
    house.check()
    assert house.tree.num_retained_tokens == 8
    house.tree.clear()
    assert house.tree.num_retained_tokens == 0
    house.cache([*range(10), 50, 51])
    assert house.tree.num_retained_tokens == 10, "and not what follows"
    assert house.tree.retained()[0].num_held_tokens == 10
    house.tree.expire(house.now + 60)
    house.check()


def test_what_is_not_there_yet_is_retained_when_it_comes_as_far_as_the_budget_goes():
    house = House(budget=6)
    house.tree.retain(prefix([*range(4), 8], "a", 4), 1.0, 60)
    house.tree.retain(prefix([5, 5, 5, 5]), 1.0, 60)
    house.cache([*range(4), 8], namespace="a", public=4)
    assert house.tree.num_retained_tokens == 5
    house.cache([5, 5, 5, 5])
    assert house.tree.num_retained_tokens == 5
    house.tree.clear()
    house.cache([5, 5, 5, 5])
    assert house.tree.num_retained_tokens == 4, "there is room now"


def test_another_tenant_does_not_retain_for_the_first():
    house = House(budget=100)
    house.tree.retain(prefix([1, 2, 3, 4], "a", 2), 1.0, 60)
    house.cache([1, 2, 3, 4], namespace="b", public=2)
    assert house.tree.num_retained_tokens == 2


def test_a_committed_tail_is_retained_too():
    house = House(budget=100)
    leaf = house.attach([1, 2])
    house.tree.retain(prefix([1, 2, 3]), 1.0, 60)
    pages = house.pool.allocate(1)
    house.tree.commit(leaf, tokens(3, 4), house.pool.slots(pages)[:2], pages, "")
    house.pool.release(pages)
    house.check()
    assert house.tree.num_retained_tokens == 3


@pytest.mark.parametrize(("weight", "ttl"), [(0, 1), (-1, 1), (1, 0), (1, float("inf"))])
def test_weight_and_time_are_positive_numbers(weight, ttl):
    house = House(budget=100)
    with pytest.raises(InvalidRequest, match="must be a positive number"):
        house.tree.retain(prefix([1]), weight, ttl)
    assert house.tree.retained() == ()


def test_there_is_no_end_of_prefixes_that_nobody_computes(monkeypatch):
    house = House(budget=100)
    monkeypatch.setattr("treeserve.scheduler.tree.retention.MAX_RETAINED_PREFIXES", 3)
    for i in range(3):
        house.tree.retain(prefix([i]), 1.0, 60)
    with pytest.raises(InvalidRequest, match="3 prefixes are retained"):
        house.tree.retain(prefix([9]), 1.0, 60)
