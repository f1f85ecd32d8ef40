"""How long single operations on a radix tree take that holds many tokens already."""

from dataclasses import dataclass
from itertools import count
from time import perf_counter

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.simulation.step_times import milliseconds

_PAGE_SIZE = 16
_SEGMENT_TOKENS = 256
_PATH_SEGMENTS = 8
"""Of the prompts in the tree: each shares half of its path with another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTimes:
    """Medians over the rounds, in milliseconds."""

    tree_tokens: int
    tree_segments: int
    prompt_tokens: int
    evicted_tokens: int
    """In one call."""
    match_ms: float
    """A prompt of which all is cached, as one path of segments."""
    insert_ms: float
    """Match and insert of a prompt of which nothing is cached."""
    evict_ms: float


def measure_tree(
    tree_tokens: int, prompt_tokens: int, evicted_tokens: int, rounds: int
) -> TreeTimes:
    """Fills a tree and times operations on it, so that it holds as much before each of them."""
    filled = _FilledTree(tree_tokens, prompt_tokens)
    num_segments = len(filled.tree.segments())
    match, insert, evict = [], [], []
    for _ in range(rounds):
        match.append(filled.time_match())
        insert.append(filled.time_insert())
        evict.append(filled.time_evict(evicted_tokens))
        filled.fill()
    return TreeTimes(
        tree_tokens=tree_tokens,
        tree_segments=num_segments,
        prompt_tokens=prompt_tokens,
        evicted_tokens=evicted_tokens,
        match_ms=milliseconds(match, 50),
        insert_ms=milliseconds(insert, 50),
        evict_ms=milliseconds(evict, 50),
    )


class _FilledTree:
    """A tree that holds about `num_tokens` computed tokens, and room for two prompts more."""

    def __init__(self, num_tokens: int, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._num_pages = -(-num_tokens // _PAGE_SIZE)
        room = 2 * prompt_tokens + (_PATH_SEGMENTS + 2) * _SEGMENT_TOKENS
        self._pool = PagePool(self._num_pages + -(-room // _PAGE_SIZE), _PAGE_SIZE)
        self.tree = RadixTree(self._pool, KeptLogits(1))
        self._names = count(1)
        self.fill()

    def fill(self) -> None:
        """Evicts down to the size, or adds prompts; each shares half of its path with another."""
        self.tree.evict(max(0, self._num_used - self._num_pages))
        path = self._fresh(_PATH_SEGMENTS)
        while self._num_used < self._num_pages:
            path = np.concatenate([path[: len(path) // 2], self._fresh(_PATH_SEGMENTS // 2)])
            self._commit_in_segments(path)

    def time_match(self) -> float:
        """Of a cached prompt."""
        prompt = self._fresh(-(-self._prompt_tokens // _SEGMENT_TOKENS))[: self._prompt_tokens]
        self._commit_in_segments(prompt)
        started = perf_counter()
        self.tree.match(Prefix(prompt))
        return perf_counter() - started

    def time_insert(self) -> float:
        """The prompt leaves the tree again."""
        prompt = Prefix(self._fresh(-(-self._prompt_tokens // _SEGMENT_TOKENS)))
        started = perf_counter()
        leaf = self.tree.insert_pending(self.tree.match(prompt), prompt)
        assert leaf is not None
        self.tree.pin(leaf)
        seconds = perf_counter() - started
        self.tree.unpin(leaf)
        return seconds

    def time_evict(self, num_tokens: int) -> float:
        started = perf_counter()
        self.tree.evict(num_tokens // _PAGE_SIZE)
        return perf_counter() - started

    @property
    def _num_used(self) -> int:
        return self._pool.num_pages - self._pool.num_free

    def _commit_in_segments(self, tokens: Int32Array) -> None:
        for end in range(_SEGMENT_TOKENS, len(tokens) + _SEGMENT_TOKENS, _SEGMENT_TOKENS):
            self._commit(tokens[:end])

    def _commit(self, tokens: Int32Array) -> None:
        """As computed; what the tree does not hold yet gets pages."""
        matched = self.tree.match(Prefix(tokens))
        missing = tokens[matched.end_position :]
        if len(missing) == 0:
            return
        pages = self.tree.allocate(self._pool.pages_for(len(missing)))
        assert pages is not None
        slots = self._pool.slots(pages)[: len(missing)]
        self.tree.pin(matched)
        self.tree.commit(matched, missing, slots, pages, "")
        self.tree.unpin(matched)
        self._pool.release(pages)

    def _fresh(self, num_segments: int) -> Int32Array:
        """Tokens that occur nowhere else."""
        names = [next(self._names) for _ in range(num_segments)]
        return np.repeat(np.array(names, dtype=np.int32), _SEGMENT_TOKENS)
