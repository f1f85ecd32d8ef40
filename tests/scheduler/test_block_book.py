"""Blocks that are told of are those that the tree holds, whatever it goes through."""

import numpy as np
import pytest
from tree_house import House, prefix

from treeserve.scheduler.tree.block_book import BlockBook, BlocksRemoved, BlocksStored

SIZE = 3


class Follower:
    """What somebody who hears every change believes to be there."""

    def __init__(self) -> None:
        self.paths: dict[int, tuple[int, ...]] = {}
        """The path's tokens up to a block's end, by its hash."""

    def hear(self, changes) -> None:
        for change in changes:
            if isinstance(change, BlocksRemoved):
                for block_hash in change.hashes:
                    del self.paths[block_hash]
            else:
                self._store(change)

    def _store(self, change: BlocksStored) -> None:
        path = () if change.parent_hash is None else self.paths[change.parent_hash]
        assert len(change.token_ids) == SIZE * len(change.hashes)
        for block_hash, block in zip(
            change.hashes, change.token_ids.reshape(-1, SIZE).tolist(), strict=True
        ):
            path = (*path, *block)
            assert block_hash not in self.paths
            self.paths[block_hash] = path


def held(house: House) -> set[tuple[int, ...]]:
    """Whole blocks that are computed, each as its path."""
    found = set()
    for segment in house.tree.segments():
        if segment.num_computed == 0:
            continue
        path, above = [], segment
        while above.parent is not None:
            num = above.num_computed if above is segment else len(above)
            path, above = [*above.tokens[:num].tolist(), *path], above.parent
        found |= {tuple(path[:end]) for end in range(SIZE, len(path) + 1, SIZE)}
    return found


@pytest.fixture
def watched() -> tuple[House, BlockBook]:
    house, book = House(num_pages=16), BlockBook(SIZE)
    house.tree.watch(book)
    return house, book


@pytest.mark.parametrize("seed", range(8))
def test_random_prompts_evictions_and_clears(seed, watched):
    house, book = watched
    rng, follower = np.random.default_rng(seed), Follower()
    pinned = []
    for _ in range(300):
        prompt = prefix(rng.integers(0, 2, rng.integers(1, 14)).tolist())
        chance = rng.random()
        num_missing = house.tree.num_missing_pages(house.tree.match(prompt), prompt)
        if chance < 0.4 and num_missing <= house.pool.num_free:
            pinned.append(house.attach_prefix(prompt, computed=bool(rng.random() < 0.6)))
        elif chance < 0.7 and pinned:
            house.tree.unpin(pinned.pop(rng.integers(len(pinned))))
        elif chance < 0.8:
            house.tree.evict(int(rng.integers(1, 5)))
        elif chance < 0.9:
            house.tree.match(prompt)
        elif chance < 0.92:
            house.tree.clear()
        if rng.random() < 0.5:
            follower.hear(book.take_changes())
            assert set(follower.paths.values()) == held(house)
    for leaf in pinned:
        house.tree.unpin(leaf)
    house.tree.clear()
    follower.hear(book.take_changes())
    assert follower.paths == {}


def test_hashes_depend_on_what_came_before_and_on_the_tenant(watched):
    house, book = watched
    house.cache([1, 2, 3, 1, 2, 3], namespace="a")
    house.cache([1, 2, 3], namespace="b")
    told = [block for change in book.take_changes() for block in change.hashes]
    assert len(set(told)) == len(told) == 3
    assert all(1 << 62 <= block < 1 << 63 for block in told)


def test_equal_processes_tell_equal_hashes_however_segments_are_cut(watched):
    house, book = watched
    house.cache([1, 2, 3, 4, 5, 6, 7])
    [stored] = book.take_changes()
    assert stored.parent_hash is None
    assert stored.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    other_house, other = House(), BlockBook(SIZE)
    other_house.tree.watch(other)
    other_house.cache([1, 2, 3, 4])
    [first] = other.take_changes()
    other_house.cache([1, 2, 3, 4, 5, 6, 7])
    [second] = other.take_changes()
    assert first.hashes + second.hashes == stored.hashes
    assert second.parent_hash == first.hashes[0]
    assert second.token_ids.tolist() == [4, 5, 6]


def test_a_block_is_told_of_when_its_last_token_is_computed(watched):
    house, book = watched
    leaf = house.attach([1, 2, 3, 4], computed=False)
    assert book.take_changes() == []
    house.tree.mark_computed(leaf, 2)
    assert book.take_changes() == []
    house.tree.mark_computed(leaf, 3)
    assert [len(change.hashes) for change in book.take_changes()] == [1]
    assert book.take_changes() == []


def test_what_was_cached_before_it_watched_is_left_out():
    house, book = House(num_pages=16), BlockBook(SIZE)
    house.cache([1, 2, 3, 4, 5, 6])
    house.tree.watch(book)
    house.cache([1, 2, 3, 4, 9, 9])
    house.cache([7, 8, 9])
    [stored] = book.take_changes()
    assert stored.token_ids.tolist() == [7, 8, 9]
    house.tree.clear()
    assert [change.hashes for change in book.take_changes()] == [stored.hashes]
