"""The block book: the tree's computed tokens in blocks of one size, and how they change."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.path import climb
from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class BlocksStored:
    """Blocks that follow each other on one path are computed now."""

    hashes: tuple[int, ...]
    parent_hash: int | None
    """Of the block before the first; None: the path begins with it."""
    token_ids: Int32Array
    """[num_blocks * block_size]"""


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks that were told of are there no more."""

    hashes: tuple[int, ...]


BlockChange: TypeAlias = BlocksStored | BlocksRemoved


class BlockBook:
    """Watches a tree from its beginning and tells of whole blocks, however segments are cut.

    Block i of a path is its tokens [i * block_size, (i + 1) * block_size); it belongs to the
    segment that holds the last of them, and to no other. Its hash depends on its own tokens, on
    those before them and on its namespace: equal in every process, and another for another tenant.

    Prompt modules and what follows them are left out, for they are no prefix of anything; so are
    segments that were attached before it watched, with what hangs on them.

    Args:
        block_size: Tokens of a block.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._stored: dict[Segment, list[int]] = {}
        """Hashes of the blocks that were told of, by the segment that they belong to."""
        self._unfinished: set[Segment] = set()
        self._removed: list[BlocksRemoved] = []

    def attached(self, segment: Segment) -> None:
        """As TreeListener."""
        parent = segment.parent
        if (
            segment.layout is not None
            or parent is None
            or not (parent.is_root or parent in self._stored)
        ):
            return
        self._stored[segment] = []
        self._unfinished.add(segment)

    def split(self, upper: Segment, lower: Segment) -> None:
        """As TreeListener."""
        hashes = self._stored.get(lower)
        if hashes is None:
            return
        num_upper = self._num_blocks(upper, upper.end_position)
        self._stored[upper], self._stored[lower] = hashes[:num_upper], hashes[num_upper:]
        if lower in self._unfinished:
            self._unfinished.add(upper)

    def detached(self, segment: Segment, parent: Segment) -> None:
        """As TreeListener."""
        self._unfinished.discard(segment)
        self._remove(self._stored.pop(segment, []))

    def truncated(self, segment: Segment) -> None:
        """As TreeListener."""
        hashes = self._stored.get(segment)
        if hashes is None:
            return
        num_kept = self._num_blocks(segment, segment.end_position)
        self._stored[segment] = hashes[:num_kept]
        self._remove(hashes[num_kept:])

    def take_changes(self) -> list[BlockChange]:
        """What has changed since this was last asked: first what went, then what came.

        At a cost of the segments that are still pending or were attached since.
        """
        changes: list[BlockChange] = list(self._removed)
        self._removed = []
        # Parents first: a block's hash needs that of the block before.
        for segment in sorted(self._unfinished, key=lambda each: each.start_position):
            end = segment.start_position + segment.num_computed
            stored = self._store(segment, self._num_blocks(segment, end))
            if stored is not None:
                changes.append(stored)
            if not segment.is_pending:
                self._unfinished.discard(segment)
        return changes

    def _num_blocks(self, segment: Segment, end_position: int) -> int:
        """Blocks of a segment that end at or before a position in it."""
        return end_position // self.block_size - segment.start_position // self.block_size

    def _remove(self, hashes: list[int]) -> None:
        if hashes:
            self._removed.append(BlocksRemoved(tuple(hashes)))

    def _store(self, segment: Segment, num_blocks: int) -> BlocksStored | None:
        hashes = self._stored[segment]
        num_known = len(hashes)
        if num_blocks <= num_known:
            return None
        first = segment.start_position // self.block_size + num_known
        tokens = self._path_tokens(segment, first, num_blocks - num_known)
        parent_hash = last = self._last_hash(segment)
        for block in tokens.reshape(-1, self.block_size):
            last = _block_hash(last, segment.namespace, block)
            hashes.append(last)
        return BlocksStored(tuple(hashes[num_known:]), parent_hash, tokens)

    def _path_tokens(self, segment: Segment, first_block: int, num_blocks: int) -> Int32Array:
        """The path's tokens of some blocks, of which the first may begin in ancestors."""
        start = first_block * self.block_size
        end = start + num_blocks * self.block_size
        parts: list[Int32Array] = []
        above: Segment | None = segment
        while above is not None and end > start:
            low = max(start, above.start_position)
            parts.append(above.tokens[low - above.start_position : end - above.start_position])
            end = min(end, low)
            above = above.parent
        tokens: Int32Array = np.concatenate(parts[::-1])
        return tokens

    def _last_hash(self, segment: Segment) -> int | None:
        """Of the last block that was told of, on the path to a segment."""
        for above in climb(segment):
            hashes = self._stored[above]
            if hashes:
                return hashes[-1]
        return None


def _block_hash(parent_hash: int | None, namespace: str, tokens: Int32Array) -> int:
    """In [2^62, 2^63): the same number whether it is read with a sign or without one."""
    digest = blake2b(digest_size=8)
    digest.update(b"" if parent_hash is None else parent_hash.to_bytes(8, "big"))
    name = namespace.encode()
    digest.update(len(name).to_bytes(4, "big") + name)
    digest.update(tokens.astype("<i4").tobytes())
    return 1 << 62 | int.from_bytes(digest.digest(), "big") >> 2
