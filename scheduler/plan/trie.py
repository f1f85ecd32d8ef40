"""The step's trie: who reads which tokens, and which runs of segments several of them share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.imports import Imports, find_imports
from treeserve.scheduler.step import Int32Array, Int64Array
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.segment import Segment

BoolArray: TypeAlias = NDArray[np.bool_]


class DecodingSample(Protocol):
    """Its row is its last token: the last of a tail that follows its leaf.

    As long as leaf and tail are the same objects, the tail's slots do not change but for new ones
    at its end.
    """

    @property
    def leaf(self) -> Segment: ...

    @property
    def tail(self) -> Tail: ...


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Rows `[first_row, first_row + num_rows)` of a prompt, up to `end_position` without a gap.

    They attend to the leaf's path up to their own tokens; the path may reach further.
    """

    leaf: Segment
    first_row: int
    num_rows: int
    end_position: int


@dataclass(frozen=True, slots=True, eq=False)
class Readers:
    """Every decoding sample is one reader with one row, and after them every chunk is one."""

    leaves: list[Segment]
    """[num_readers] the last segment of which each reads any token"""
    starts: Int64Array
    """[num_readers] the position of the first token that each reads beside groups of modules: 0,
    or before that where modules come first"""
    ends: Int64Array
    """[num_readers] one after the position of the last token that each reads"""
    num_rows: Int64Array
    """[num_readers]"""
    num_decoding: int
    imports: Imports

    def __len__(self) -> int:
        return len(self.leaves)


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """Runs of segments that the same two or more readers share, level by level from the roots.

    Run k covers `[starts[k], ends[k])`: without a parent from where its readers start, else from
    the parent's end. What they share of modules alone is a run that ends with the root.
    """

    bottoms: list[Segment]
    """[num_runs] the last segment of each, which alone can be needed in part"""
    num_segments: Int64Array
    """[num_runs]"""
    starts: Int64Array
    ends: Int64Array
    first_starts: Int64Array
    """[num_runs] where the uppermost run above each starts, or the run itself"""
    parents: Int64Array
    """[num_runs], -1 for none"""
    num_rows: Int64Array
    """[num_runs] of all readers beneath"""
    levels: tuple[slice, ...]
    """The runs of each depth."""
    reader_runs: Int64Array
    """[num_readers] the lowest run that each shares; what it reads beneath is its own. -1: none"""

    def __len__(self) -> int:
        return len(self.bottoms)


def make_readers(
    leaves: list[Segment],
    decoding_ends: Int32Array,
    chunks: Sequence[Chunk],
    cost_model: CostModel,
    *,
    shares: bool,
) -> Readers:
    """The samples with these leaves and ends, and the chunks; what they import shared or not."""
    num_decoding = len(leaves)
    ends = np.empty(num_decoding + len(chunks), dtype=np.int64)
    num_rows = np.ones(len(ends), dtype=np.int64)
    ends[:num_decoding] = decoding_ends
    ends[num_decoding:] = [chunk.end_position for chunk in chunks]
    num_rows[num_decoding:] = [chunk.num_rows for chunk in chunks]
    every = leaves + [_last_read(chunk) for chunk in chunks]
    imports = find_imports(every, num_rows, cost_model, shares=shares)
    return Readers(every, imports.starts(every), ends, num_rows, num_decoding, imports)


def build_trie(readers: Readers) -> Trie:
    """Walks from every leaf up to what is known already, so each segment is met once."""
    walk = _walk(readers.leaves, readers.imports)
    counts = walk.sum_upward(np.ones(len(readers), dtype=np.int64))
    rows, has_chunks = counts, readers.num_decoding < len(readers)
    if has_chunks:
        rows = walk.sum_upward(readers.num_rows)
    runs = _find_runs(counts, walk.parents)
    order, levels = _by_level(runs.parents)
    # One entry more than there are runs: what a -1 finds.
    rank = np.full(len(order) + 1, -1)
    rank[order] = np.arange(len(order))
    lowest_shared, _ = _climb(walk.reader_nodes, np.append(counts == 1, False), walk.parents)
    reader_runs, parents = rank[runs.run_at[lowest_shared]], rank[runs.parents[order]]
    bottoms = [walk.segments[node] for node in runs.bottoms[order].tolist()]
    tops = [walk.segments[node] for node in runs.tops[order].tolist()]
    first_starts = readers.imports.starts(tops)
    starts = np.array([segment.start_position for segment in tops], dtype=np.int64)
    starts = np.where(parents < 0, first_starts, starts)
    ends = np.array([segment.end_position for segment in bottoms], dtype=np.int64)
    if has_chunks:
        ends = _needed_ends(ends, parents, reader_runs, readers.ends)
    return Trie(
        bottoms=bottoms,
        num_segments=runs.num_segments[order],
        starts=starts,
        ends=ends,
        first_starts=first_starts,
        parents=parents,
        num_rows=rows[runs.bottoms[order]],
        levels=levels,
        reader_runs=reader_runs,
    )


def flat_trie(num_readers: int) -> Trie:
    """Nobody shares."""
    none = np.zeros(0, dtype=np.int64)
    return Trie([], none, none, none, none, none, none, (), np.full(num_readers, -1))


@dataclass(frozen=True, slots=True, eq=False)
class _Walk:
    """Every segment that is read, parents before children; roots that modules come before, too."""

    segments: list[Segment]
    parents: Int64Array
    """[num_segments + 1], -1 for none, and last an entry for that none"""
    reader_nodes: Int64Array
    """[num_readers] where among the segments each leaf is"""

    def sum_upward(self, values: Int64Array) -> Int64Array:
        """[num_segments] the values [num_readers] of all readers at or beneath each segment."""
        sums = np.zeros(len(self.segments) + 1, dtype=np.int64)
        np.add.at(sums, self.reader_nodes, values)
        totals = sums.tolist()
        parents = self.parents.tolist()
        for node in range(len(self.segments) - 1, -1, -1):
            totals[parents[node]] += totals[node]
        return np.array(totals[:-1], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Runs of segments with the same two or more readers, parents before children."""

    bottoms: Int64Array
    """[num_runs] the lowest segment of each"""
    tops: Int64Array
    """[num_runs] the uppermost"""
    num_segments: Int64Array
    """[num_runs]"""
    parents: Int64Array
    """[num_runs] the run above, -1 for none"""
    run_at: Int64Array
    """[num_segments + 1] the run that ends with a segment, else -1; and last an entry for none"""


def _last_read(chunk: Chunk) -> Segment:
    segment = chunk.leaf
    while segment.start_position >= chunk.end_position:
        assert segment.parent is not None
        segment = segment.parent
    return segment


def _walk(leaves: list[Segment], imports: Imports) -> _Walk:
    nodes: dict[Segment | None, int] = {}
    segments: list[Segment] = []
    parents: list[int] = []
    reader_nodes: list[int] = []
    for leaf in leaves:
        node = nodes.get(leaf)
        if node is None:
            climbed = [leaf]
            above = leaf.parent
            while (node := nodes.get(above)) is None:
                if above is None or (above.parent is None and above not in imports.leads):
                    node = nodes[above] = -1
                    break
                climbed.append(above)
                above = above.parent
            for segment in reversed(climbed):
                parents.append(node)
                node = nodes[segment] = len(segments)
                segments.append(segment)
        reader_nodes.append(node)
    parents.append(-1)
    return _Walk(
        segments, np.array(parents, dtype=np.int64), np.array(reader_nodes, dtype=np.int64)
    )


def _find_runs(counts: Int64Array, parents: Int64Array) -> _Runs:
    """A segment with as many readers as its parent has the same ones, and continues its run."""
    shared = np.append(counts >= 2, False)
    continues = shared & (np.append(counts, 0)[parents] == np.append(counts, -1))
    has_continuation = np.zeros_like(shared)
    has_continuation[parents[continues]] = True
    bottoms = np.flatnonzero(shared & ~has_continuation)
    tops, num_above = _climb(bottoms, continues, parents)
    run_at = np.full(len(shared), -1)
    run_at[bottoms] = np.arange(len(bottoms))
    return _Runs(bottoms, tops, 1 + num_above, run_at[parents[tops]], run_at)


def _climb(
    nodes: Int64Array, goes_on: BoolArray, parents: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """From each node up to the first that does not go on; (those, how many were left behind)."""
    at, num_left = nodes.copy(), np.zeros(len(nodes), dtype=np.int64)
    active = np.flatnonzero(goes_on[at])
    while len(active):
        at[active] = parents[at[active]]
        num_left[active] += 1
        active = active[goes_on[at[active]]]
    return at, num_left


def _by_level(parents: Int64Array) -> tuple[Int64Array, tuple[slice, ...]]:
    """The order of the runs by depth, parents being before children, and each depth's slice."""
    depths: list[int] = []
    for parent in parents.tolist():
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    by_depth = np.array(depths, dtype=np.int64)
    ends = np.cumsum(np.bincount(by_depth)).tolist() if depths else []
    levels = tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))
    return np.argsort(by_depth, kind="stable"), levels


def _needed_ends(
    ends: Int64Array, parents: Int64Array, reader_runs: Int64Array, reader_ends: Int64Array
) -> Int64Array:
    """A run with others beneath it is needed whole, one without as far as its readers read."""
    needed = np.zeros(len(ends) + 1, dtype=np.int64)
    np.maximum.at(needed, reader_runs, reader_ends)
    needed = np.minimum(needed[:-1], ends)
    inner = parents[parents >= 0]
    needed[inner] = ends[inner]
    return needed
