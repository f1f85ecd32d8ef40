"""The step's trie: the shared part of all chunks' paths, and what each chunk reads alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.cost import CostModel
from treeserve.scheduler.segment import Segment
from treeserve.scheduler.step import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Rows `[first_row, first_row + num_rows)` of one sample or prompt, at consecutive positions.

    They attend to the path's tokens and then the tail's, up to the last row's own token, which is
    at `end_position - 1`. Without a tail the path may reach further than that.
    """

    path: tuple[Segment, ...]
    tail_slots: Int32Array
    """Of the tokens after the path, up to the last row's own; empty for rows of a prompt."""
    first_row: int
    num_rows: int
    end_position: int


@dataclass(slots=True, eq=False)
class TrieNode:
    """A run of segments, `[start_position, end_position)`, that the same two or more chunks read.

    `anchors` are the positions at which an item that covers the node may start (those of its
    ancestors and its own), and last the node's end, where the items beneath may start.
    """

    parent: int | None
    segments: tuple[Segment, ...]
    anchors: NDArray[np.int64]
    chunks: list[int] = field(default_factory=list)
    leaf_chunks: list[int] = field(default_factory=list)
    """Those that have no node beneath this one."""
    leaf_pieces: list[list[Int32Array]] = field(default_factory=list)
    """What each of them reads alone, beneath the node."""

    @property
    def start_position(self) -> int:
        return self.segments[0].start_position

    @property
    def end_position(self) -> int:
        return int(self.anchors[-1])

    def pieces(self) -> list[Int32Array]:
        *whole, last = self.segments
        return [*(s.slots for s in whole), last.slots[: self.end_position - last.start_position]]

    def leaf_costs(
        self, cost_model: CostModel, ends: NDArray[np.int64], num_rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[len(anchors)]: what the leaves cost if their items start at that anchor."""
        leaves = np.array(self.leaf_chunks, dtype=np.int64)
        lengths = np.maximum(ends[leaves][None, :] - self.anchors[:, None], 0)
        costs: NDArray[np.float64] = cost_model.items_cost(lengths, num_rows[leaves]).sum(axis=1)
        return costs


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """Nodes with parents before children; a chunk that shares nothing is in `alone`."""

    nodes: list[TrieNode]
    alone: list[int]
    alone_pieces: list[list[Int32Array]]


def build_trie(chunks: Sequence[Chunk]) -> Trie:
    """Segments that the same chunks read are one node."""
    groups: dict[int, list[int]] = {}
    counts: dict[Segment, int] = {}
    for index, chunk in enumerate(chunks):
        groups.setdefault(id(chunk.path), []).append(index)
    for indices in groups.values():
        for segment in chunks[indices[0]].path:
            counts[segment] = counts.get(segment, 0) + len(indices)
    trie = Trie([], [], [])
    node_of: dict[Segment, int] = {}
    for indices in groups.values():
        path = chunks[indices[0]].path
        end = max(chunks[i].end_position for i in indices)
        num_shared, node = _walk(trie.nodes, node_of, counts, path, end, indices)
        into, pieces = trie.alone, trie.alone_pieces
        if node is not None:
            into, pieces = trie.nodes[node].leaf_chunks, trie.nodes[node].leaf_pieces
        for index in indices:
            into.append(index)
            pieces.append(_private_pieces(chunks[index], num_shared))
    return trie


def build_flat_trie(chunks: Sequence[Chunk]) -> Trie:
    """Nobody shares."""
    return Trie([], list(range(len(chunks))), [_private_pieces(chunk, 0) for chunk in chunks])


def _walk(
    nodes: list[TrieNode],
    node_of: dict[Segment, int],
    counts: dict[Segment, int],
    path: tuple[Segment, ...],
    end_position: int,
    chunks: list[int],
) -> tuple[int, int | None]:
    parent: int | None = None
    i = 0
    while i < len(path) and counts[path[i]] > 1:
        first = i
        while i < len(path) and counts[path[i]] == counts[path[first]]:
            i += 1
        end = min(path[i - 1].end_position, end_position)
        index = node_of.get(path[first])
        if index is None:
            start = path[first].start_position
            above = np.array([start]) if parent is None else nodes[parent].anchors
            index = node_of[path[first]] = len(nodes)
            nodes.append(TrieNode(parent, path[first:i], np.append(above, end)))
        node = nodes[index]
        node.anchors[-1] = max(node.anchors[-1], end)
        node.chunks.extend(chunks)
        parent = index
    return i, parent


def _private_pieces(chunk: Chunk, num_shared: int) -> list[Int32Array]:
    pieces = []
    for segment in chunk.path[num_shared:]:
        pieces.append(segment.slots[: chunk.end_position - segment.start_position])
    if len(chunk.tail_slots) > 0:
        pieces.append(chunk.tail_slots)
    return pieces
