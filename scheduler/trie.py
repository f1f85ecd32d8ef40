"""The step's trie: the shared part of all chunks' paths, and what each chunk reads alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

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
    ending: dict[Segment, int] = {}
    for indices in groups.values():
        path = chunks[indices[0]].path
        num_shared = len(path)
        while num_shared > 0 and counts[path[num_shared - 1]] == 1:
            num_shared -= 1
        into, pieces = trie.alone, trie.alone_pieces
        if num_shared > 0:
            end = max(chunks[i].end_position for i in indices)
            node = _find_node(trie.nodes, ending, counts, path[:num_shared], end)
            into, pieces = node.leaf_chunks, node.leaf_pieces
        into += indices
        pieces += [_private_pieces(chunks[index], num_shared) for index in indices]
    for node in reversed(trie.nodes):
        node.chunks += node.leaf_chunks
        if node.parent is not None:
            trie.nodes[node.parent].chunks += node.chunks
    return trie


def build_flat_trie(chunks: Sequence[Chunk]) -> Trie:
    """Nobody shares."""
    return Trie([], list(range(len(chunks))), [_private_pieces(chunk, 0) for chunk in chunks])


def _find_node(
    nodes: list[TrieNode],
    ending: dict[Segment, int],
    counts: dict[Segment, int],
    path: tuple[Segment, ...],
    end_position: int,
) -> TrieNode:
    """The node that ends with the path, which only here can be needed in part."""
    if path[-1] not in ending:
        _add_nodes(nodes, ending, counts, path)
    node = nodes[ending[path[-1]]]
    needed = min(path[-1].end_position, end_position)
    node.anchors[-1] = max(node.anchors[-1], needed)
    return node


def _add_nodes(
    nodes: list[TrieNode],
    ending: dict[Segment, int],
    counts: dict[Segment, int],
    path: tuple[Segment, ...],
) -> None:
    parent: int | None = None
    above = np.zeros(1, dtype=np.int64)
    for _, run in groupby(path, key=counts.__getitem__):
        segments = tuple(run)
        if segments[-1] not in ending:
            ending[segments[-1]] = len(nodes)
            nodes.append(TrieNode(parent, segments, np.append(above, 0)))
        parent = ending[segments[-1]]
        above = nodes[parent].anchors
        if segments[-1] is not path[-1]:
            above[-1] = segments[-1].end_position


def _private_pieces(chunk: Chunk, num_shared: int) -> list[Int32Array]:
    pieces = []
    for segment in chunk.path[num_shared:]:
        pieces.append(segment.slots[: chunk.end_position - segment.start_position])
    if len(chunk.tail_slots) > 0:
        pieces.append(chunk.tail_slots)
    return pieces
