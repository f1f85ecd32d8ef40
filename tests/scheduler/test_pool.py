"""The page pool's books balance, whoever holds a page."""

import numpy as np
import pytest

from treeserve.scheduler.tree.pool import PagePool


def test_no_room_is_a_return_value_and_takes_nothing():
    pool = PagePool(4, 16)
    assert pool.allocate(5) is None
    assert pool.num_free == 4
    assert pool.allocate(0).tolist() == []
    pool.check(np.zeros(4, dtype=np.int32))


def test_a_page_is_free_when_its_last_holder_releases_it():
    pool = PagePool(4, 16)
    pages = pool.allocate(3)
    pool.retain(pages[:2])
    pool.release(pages)
    assert pool.num_free == 2
    pool.check()
    pool.release(pages[:2])
    assert pool.num_free == 4
    pool.check()


def test_pages_are_distinct_and_slots_lie_in_them():
    pool = PagePool(5, 4)
    a, b = pool.allocate(2), pool.allocate(3)
    assert sorted([*a.tolist(), *b.tolist()]) == [0, 1, 2, 3, 4]
    assert pool.slots(a).tolist() == [
        page * 4 + offset for page in a.tolist() for offset in range(4)
    ]
    assert [pool.pages_for(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_releasing_or_retaining_a_free_page_is_an_error():
    pool = PagePool(2, 4)
    with pytest.raises(ValueError, match="released a free page"):
        pool.release(np.array([0], dtype=np.int32))
    with pytest.raises(ValueError, match="retained a free page"):
        pool.retain(np.array([1], dtype=np.int32))
    pool.check()


def test_check_finds_a_holder_that_nobody_knows():
    pool = PagePool(2, 4)
    pool.allocate(1)
    with pytest.raises(AssertionError, match="holders that nobody knows"):
        pool.check(np.zeros(2, dtype=np.int32))


def test_a_shared_page_is_given_back_once_for_each_time_it_is_named():
    pool = PagePool(2, 4)
    pages = pool.allocate(1)
    for _ in range(3):
        pool.retain(pages)
    pool.release_shared(np.repeat(pages, 2))
    assert pool.count(int(pages[0])) == 2
    with pytest.raises(ValueError, match="last holder"):
        pool.release_shared(np.repeat(pages, 2))
    assert pool.count(int(pages[0])) == 2
    pool.check()


def test_any_order_of_taking_and_giving_back_keeps_every_page_once():
    pool, random = PagePool(50, 4), np.random.default_rng(3)
    held: list[np.ndarray] = []
    for _ in range(300):
        if held and random.random() < 0.5:
            pool.release(held.pop(random.integers(len(held))))
        elif (pages := pool.allocate(int(random.integers(0, 12)))) is not None:
            held.append(pages)
        counts = np.zeros(50, dtype=np.int32)
        counts[np.concatenate([np.zeros(0, dtype=np.int32), *held])] = 1
        pool.check(counts)
        assert pool.num_free == 50 - counts.sum()
