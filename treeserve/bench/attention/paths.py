"""The paths of a step's rows, depth first, as other libraries want them told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.step import Int32Array, Step

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TreePaths:
    """Depth first, so that the rows beneath any node stand together."""

    order: Int64Array
    """[num_rows] which row of the step each one is"""
    slots: Sequence[Int32Array]
    """[num_rows] of what each one sees, in order of position"""

    @property
    def num_rows(self) -> int:
        return len(self.slots)

    @property
    def lengths(self) -> Int64Array:
        """[num_rows] tokens that each one sees"""
        return np.array([len(path) for path in self.slots], dtype=np.int64)


def tree_paths(step: Step) -> TreePaths:
    """From any plan of the step."""
    paths = _row_paths(step)
    # Big-endian, bytes compare as the numbers do; equal beginnings are equal nodes.
    keys = [path.astype(">i4").tobytes() for path in paths]
    order = sorted(range(len(paths)), key=keys.__getitem__)
    return TreePaths(np.array(order, dtype=np.int64), [paths[row] for row in order])


@dataclass(frozen=True, slots=True, eq=False)
class PackedTree:
    """Every token of the tree once, depth first, and the run of rows that see it."""

    slots: Int32Array
    """[num_tokens]"""
    first_rows: Int32Array
    """[num_tokens]"""
    end_rows: Int32Array
    """[num_tokens]"""


def pack_tree(paths: TreePaths) -> PackedTree:
    """The distinct tokens of all paths, in the order in which a walk meets them."""
    everything = np.concatenate(paths.slots)
    rows = np.repeat(np.arange(paths.num_rows, dtype=np.int32), paths.lengths)
    slots, firsts, counts = np.unique(everything, return_index=True, return_counts=True)
    by_walk = np.argsort(firsts, kind="stable")
    first_rows = rows[firsts[by_walk]]
    end_rows = first_rows + counts[by_walk].astype(np.int32)
    return PackedTree(slots[by_walk], first_rows, end_rows)


@dataclass(frozen=True, slots=True, eq=False)
class PageTable:
    """Lists of pages of one token each, in CSR form, as FlashInfer takes them.

    Group g is rows `row_starts[g]` to `row_starts[g + 1]`, which read the pages
    `pages[page_starts[g] : page_starts[g + 1]]`.
    """

    row_starts: Int32Array
    """[num_groups + 1]"""
    page_starts: Int32Array
    """[num_groups + 1]"""
    pages: Int32Array

    @property
    def last_page_lengths(self) -> Int32Array:
        """[num_groups] tokens on the last page of each group"""
        return np.ones(len(self.page_starts) - 1, dtype=np.int32)


def request_table(paths: TreePaths) -> PageTable:
    """Every row a group of its own, which reads its whole path."""
    return PageTable(
        row_starts=np.arange(paths.num_rows + 1, dtype=np.int32),
        page_starts=_starts([len(path) for path in paths.slots]),
        pages=np.concatenate(paths.slots),
    )


def cascade_tables(paths: TreePaths) -> list[PageTable]:
    """Level by level from the root: rows beneath one node are a group.

    A node is as long a run of tokens as the same rows see. Rows whose path has ended are groups of
    their own, with nothing to read.
    """
    packed = pack_tree(paths)
    index = {slot: i for i, slot in enumerate(packed.slots.tolist())}
    nodes = [_nodes_of(path, packed, index) for path in paths.slots]
    num_levels = max(len(own) for own in nodes)
    return [_level_table(paths, nodes, level) for level in range(num_levels)]


def _row_paths(step: Step) -> list[Int32Array]:
    plan = step.plan
    parts: list[list[tuple[int, Int32Array]]] = [[] for _ in range(step.num_rows)]
    for item in range(plan.num_items):
        slots = plan.item_slots[plan.item_slot_starts[item] : plan.item_slot_ends[item]]
        start = int(plan.item_start_positions[item])
        own = slice(plan.item_row_starts[item], plan.item_row_starts[item + 1])
        for row in plan.item_rows[own].tolist():
            parts[row].append((start, slots[: int(step.positions[row]) + 1 - start]))
    return [
        np.concatenate([slots for _, slots in sorted(own, key=lambda part: part[0])])
        for own in parts
    ]


def _nodes_of(
    path: Int32Array, packed: PackedTree, index: dict[int, int]
) -> list[tuple[int, Int32Array]]:
    """(end of the run of rows beneath it, slots) of each node of a path."""
    places = np.array([index[slot] for slot in path.tolist()])
    firsts, ends = packed.first_rows[places], packed.end_rows[places]
    cuts = np.flatnonzero((np.diff(firsts) != 0) | (np.diff(ends) != 0)) + 1
    pieces = np.split(path, cuts)
    return [
        (int(ends[start]), piece) for start, piece in zip([0, *cuts.tolist()], pieces, strict=True)
    ]


def _level_table(
    paths: TreePaths, nodes: Sequence[list[tuple[int, Int32Array]]], level: int
) -> PageTable:
    row_starts, groups = [0], []
    while row_starts[-1] < paths.num_rows:
        row = row_starts[-1]
        has_node = level < len(nodes[row])
        end, slots = nodes[row][level] if has_node else (row + 1, np.zeros(0, dtype=np.int32))
        row_starts.append(end)
        groups.append(slots)
    return PageTable(
        row_starts=np.array(row_starts, dtype=np.int32),
        page_starts=_starts([len(slots) for slots in groups]),
        pages=np.concatenate(groups),
    )


def _starts(counts: Sequence[int]) -> Int32Array:
    return np.cumsum([0, *counts]).astype(np.int32)
