"""The synthetic trees that are measured, and their plans: shared and flat, cut and whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from treeserve.scheduler.step import NO_SLOT, Draws, Int32Array, Plan, PlanCounts, Step

TAIL_TOKENS = 32
_PREFIXES = (64, 128, 256, 512, 1024, 2048, 4096)
_BATCHES = (2, 4, 8, 16, 32, 64)
_CUDA_PREFIXES = (*_PREFIXES, 8192)
_CUDA_BATCHES = (*_BATCHES, 128, 256)
_GROUPS = (2, 4, 16)
_GROUP_SIZES = (4, 16)
_GROUP_PREFIXES = (64, 256)
_PAGE_SIZE = 16


class Level(NamedTuple):
    """A tree's nodes at one depth; those of the last are one row's tail each."""

    num_nodes: int
    num_tokens: int
    """Of each node."""


Tree: TypeAlias = tuple[Level, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A work item: `rows` attend to the tokens in `slots`, from `start_position` on."""

    rows: Int32Array
    slots: Int32Array
    start_position: int


@dataclass(frozen=True, slots=True)
class Workload:
    """The work items of one step in which every row decodes at the same position."""

    items: Sequence[Item]
    num_rows: int
    position: int

    @property
    def num_stored_tokens(self) -> int:
        """Different ones among those that are read."""
        slots = np.concatenate([item.slots for item in self.items])
        return int(np.count_nonzero(np.bincount(slots)))


def trees_for(device_type: str) -> list[Tree]:
    """One prefix under a batch, several prefixes under groups, and prefixes in two levels."""
    on_cuda = device_type == "cuda"
    prefixes, batches = (_CUDA_PREFIXES, _CUDA_BATCHES) if on_cuda else (_PREFIXES, _BATCHES)
    trees = [one_prefix(prefix, batch) for batch in batches for prefix in prefixes]
    for groups in _GROUPS:
        for size in _GROUP_SIZES:
            rows = Level(groups * size, TAIL_TOKENS)
            trees += [(Level(groups, prefix), rows) for prefix in _GROUP_PREFIXES]
            trees.append((Level(1, 1024), Level(groups, 256), rows))
    return sorted(trees, key=num_flat_tokens)


def one_prefix(num_tokens: int, batch: int) -> Tree:
    return (Level(1, num_tokens), Level(batch, TAIL_TOKENS))


def num_flat_tokens(tree: Tree) -> int:
    """What ordinary attention reads."""
    return tree[-1].num_nodes * sum(level.num_tokens for level in tree)


def num_stored_tokens(tree: Tree) -> int:
    """Slots that the tree takes."""
    return sum(level.num_nodes * level.num_tokens for level in tree)


def scattered_slots(num_slots: int) -> Int32Array:
    """All slots below `num_slots`, whole pages in no order: a pool that was long in use."""
    pages = np.random.default_rng(0).permutation(-(-num_slots // _PAGE_SIZE))
    slots = (pages[:, None] * _PAGE_SIZE + np.arange(_PAGE_SIZE)).ravel()
    return slots[slots < num_slots].astype(np.int32)


def shared_workload(tree: Tree, slots: Int32Array) -> Workload:
    """Every node is an item of its own."""
    num_rows = tree[-1].num_nodes
    items = []
    start = 0
    for level, nodes in zip(tree, _node_slots(tree, slots), strict=True):
        for node, node_slots in enumerate(nodes):
            rows = np.flatnonzero(_nodes_of_rows(level, num_rows) == node).astype(np.int32)
            items.append(Item(rows, node_slots, start))
        start += level.num_tokens
    return Workload(items, num_rows, start - 1)


def flat_workload(tree: Tree, slots: Int32Array) -> Workload:
    """Ordinary attention: every row reads its whole path alone."""
    num_rows = tree[-1].num_nodes
    of_rows = [
        nodes[_nodes_of_rows(level, num_rows)]
        for level, nodes in zip(tree, _node_slots(tree, slots), strict=True)
    ]
    paths = np.concatenate(of_rows, axis=1)
    items = [Item(np.array([row], dtype=np.int32), paths[row], 0) for row in range(num_rows)]
    return Workload(items, num_rows, paths.shape[1] - 1)


def cut_workload(workload: Workload, max_item_tokens: int | None) -> Workload:
    """The same with longer items cut, as the planner cuts them."""
    if max_item_tokens is None:
        return workload
    pieces = []
    for item in workload.items:
        start = item.start_position
        for part in np.array_split(item.slots, -(-len(item.slots) // max_item_tokens)):
            pieces.append(Item(item.rows, part, start))
            start += len(part)
    return Workload(pieces, workload.num_rows, workload.position)


def make_step(workload: Workload) -> Step:
    """The step that carries the workload out; it writes nothing and draws nothing."""
    num_rows = workload.num_rows
    return Step(
        number=0,
        token_ids=np.zeros(num_rows, dtype=np.int32),
        positions=np.full(num_rows, workload.position, dtype=np.int32),
        write_slots=np.full(num_rows, NO_SLOT, dtype=np.int32),
        logits_rows=np.zeros(0, dtype=np.int32),
        keeps=(),
        draws=Draws((), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)),
        plan=_plan(workload),
        num_prompt_rows=0,
    )


def _plan(workload: Workload) -> Plan:
    items = workload.items
    item_rows = np.concatenate([item.rows for item in items])
    num_tokens = sum(len(item.slots) for item in items)
    item_bounds = _starts([len(item.slots) for item in items])
    return Plan(
        item_rows=item_rows,
        item_row_starts=_starts([len(item.rows) for item in items]),
        item_slots=np.concatenate([item.slots for item in items]),
        item_slot_starts=item_bounds[:-1],
        item_slot_ends=item_bounds[1:],
        item_start_positions=np.array([item.start_position for item in items], dtype=np.int32),
        row_states=np.argsort(item_rows, kind="stable").astype(np.int32),
        row_state_starts=_starts(np.bincount(item_rows, minlength=workload.num_rows).tolist()),
        counts=PlanCounts(tokens_read=num_tokens, tokens_read_flat=num_tokens),
    )


def _starts(counts: Sequence[int]) -> Int32Array:
    return np.cumsum([0, *counts]).astype(np.int32)


def _node_slots(tree: Tree, slots: Int32Array) -> list[Int32Array]:
    """Of each level, [num_nodes, num_tokens]."""
    sizes = [level.num_nodes * level.num_tokens for level in tree]
    parts = np.split(slots[: sum(sizes)], np.cumsum(sizes)[:-1])
    return [part.reshape(level) for part, level in zip(parts, tree, strict=True)]


def _nodes_of_rows(level: Level, num_rows: int) -> Int32Array:
    """[num_rows] the node of the level that each row is beneath; neighbours stand together."""
    return (np.arange(num_rows) * level.num_nodes // num_rows).astype(np.int32)
