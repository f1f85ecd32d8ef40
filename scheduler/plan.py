"""The planner: inverts the rows' paths into work items, sharing a segment where that pays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.cost import CostModel
from treeserve.scheduler.step import Int32Array, Plan, PlanCounts
from treeserve.scheduler.trie import Chunk, Trie, build_flat_trie, build_trie


@dataclass(frozen=True, slots=True)
class _Item:
    """Not yet cut: `pieces` are the slots of the tokens `[start_position, end_position)`."""

    start_position: int
    end_position: int
    pieces: list[Int32Array]
    chunks: list[int]


def plan_shared(chunks: Sequence[Chunk], positions: Int32Array, cost_model: CostModel) -> Plan:
    """The cheapest plan, by the cost model, among those that share whole segments.

    Args:
        chunks: All rows of the step, each in one chunk, in row order.
        positions: [num_rows]
        cost_model: Decides what is shared, what is folded and what is cut.
    """
    trie = build_trie(chunks)
    item_starts = _decide(trie, chunks, cost_model)
    folded = [n for n, start in zip(trie.nodes, item_starts, strict=True) if start is None]
    items = _list_items(trie, item_starts, chunks)
    num_folded = sum(len(node.segments) for node in folded)
    return _lay_out(items, chunks, positions, cost_model, num_folded)


def plan_flat(chunks: Sequence[Chunk], positions: Int32Array, cost_model: CostModel) -> Plan:
    """Ordinary attention: every chunk reads its whole path alone."""
    items = _list_items(build_flat_trie(chunks), [], chunks)
    return _lay_out(items, chunks, positions, cost_model, num_folded=0)


def check_plan(plan: Plan, chunks: Sequence[Chunk], positions: Int32Array) -> None:
    """Raises AssertionError unless every row sees exactly its own tokens, each in one state."""
    num_states = len(plan.item_rows)
    assert plan.num_rows == len(positions), "a row is not planned"
    assert len(plan.row_states) == num_states == plan.row_state_starts[-1], "states and rows differ"
    assert np.array_equal(np.sort(plan.row_states), np.arange(num_states)), "a state is shared"
    owners = np.repeat(np.arange(plan.num_rows), np.diff(plan.row_state_starts))
    assert np.array_equal(plan.item_rows[plan.row_states], owners), "a state of another row"
    assert plan.item_row_starts[-1] == num_states, "states outside of items"
    assert plan.item_slot_starts[-1] == len(plan.item_slots), "slots outside of items"
    assert (np.diff(plan.item_row_starts) > 0).all(), "an item without rows"
    assert (np.diff(plan.item_slot_starts) > 0).all(), "an item without tokens"
    item_of_state = np.repeat(np.arange(plan.num_items), np.diff(plan.item_row_starts))
    for chunk in chunks:
        own = np.concatenate([*(s.slots for s in chunk.path), chunk.tail_slots])
        for row in range(chunk.first_row, chunk.first_row + chunk.num_rows):
            states = plan.row_states[plan.row_state_starts[row] : plan.row_state_starts[row + 1]]
            assert (np.diff(states) > 0).all(), "states are not in item order"
            seen = _seen_slots(plan, item_of_state[states], int(positions[row]))
            assert np.array_equal(seen, own[: positions[row] + 1]), f"row {row} sees other tokens"


def _decide(trie: Trie, chunks: Sequence[Chunk], cost_model: CostModel) -> list[int | None]:
    """For each node the position at which its own item starts, None where it is folded.

    Exact: entry a of `below[i]` is the least cost of everything beneath node i if the items there
    start at the node's anchor a, which is to say that they carry the folded ancestors' tokens.
    """
    ends = np.array([c.end_position for c in chunks], dtype=np.int64)
    num_rows = np.array([c.num_rows for c in chunks], dtype=np.int64)
    below = [node.leaf_costs(cost_model, ends, num_rows) for node in trie.nodes]
    owns = [np.zeros(0, dtype=np.bool_)] * len(trie.nodes)
    for index in reversed(range(len(trie.nodes))):
        node = trie.nodes[index]
        lengths = node.end_position - node.anchors[:-1]
        own = cost_model.items_cost(lengths, num_rows[node.chunks].sum()) + below[index][-1]
        owns[index] = own < below[index][:-1]
        if node.parent is not None:
            below[node.parent] += np.minimum(own, below[index][:-1])
    item_starts: list[int | None] = []
    anchors: list[int] = []
    for node, own in zip(trie.nodes, owns, strict=True):
        anchor = 0 if node.parent is None else anchors[node.parent]
        item_starts.append(int(node.anchors[anchor]) if own[anchor] else None)
        anchors.append(len(node.anchors) - 1 if own[anchor] else anchor)
    return item_starts


def _list_items(trie: Trie, item_starts: list[int | None], chunks: Sequence[Chunk]) -> list[_Item]:
    items: list[_Item] = []
    carried: list[tuple[int, list[Int32Array]]] = []
    for node, item_start in zip(trie.nodes, item_starts, strict=True):
        start, pieces = (0, []) if node.parent is None else carried[node.parent]
        pieces = [np.concatenate([*pieces, *node.pieces()])]
        if item_start is not None:
            items.append(_Item(start, node.end_position, pieces, sorted(node.chunks)))
            start, pieces = node.end_position, []
        carried.append((start, pieces))
    for node, (start, pieces) in zip(trie.nodes, carried, strict=True):
        for index, own in zip(node.leaf_chunks, node.leaf_pieces, strict=True):
            items.extend(_leaf_items(index, chunks[index], start, [*pieces, *own]))
    for index, own in zip(trie.alone, trie.alone_pieces, strict=True):
        items.extend(_leaf_items(index, chunks[index], 0, own))
    return items


def _leaf_items(index: int, chunk: Chunk, start: int, pieces: list[Int32Array]) -> list[_Item]:
    if chunk.end_position <= start:
        return []
    if not len(chunk.tail_slots):
        pieces = [np.concatenate(pieces)[: chunk.end_position - start]]
    return [_Item(start, chunk.end_position, pieces, [index])]


def _lay_out(
    items: list[_Item],
    chunks: Sequence[Chunk],
    positions: Int32Array,
    cost_model: CostModel,
    num_folded: int,
) -> Plan:
    rows = [np.arange(c.first_row, c.first_row + c.num_rows, dtype=np.int32) for c in chunks]
    item_rows, row_counts = _join([_join_rows(rows, item.chunks) for item in items])
    slots, _ = _join([piece for item in items for piece in item.pieces])
    starts = np.array([item.start_position for item in items], dtype=np.int32)
    lengths = np.array([item.end_position for item in items], dtype=np.int32) - starts
    shared = np.array([len(item.chunks) > 1 for item in items], dtype=np.bool_)
    cut = _cut(lengths, cost_model.max_item_tokens)
    item_rows, row_counts = _repeat_lists(item_rows, row_counts, cut.sources)
    starts = starts[cut.sources] + cut.offsets
    states_item = np.repeat(np.arange(len(starts)), row_counts)
    seen = positions[item_rows] >= starts[states_item]
    item_rows, states_item = item_rows[seen], states_item[seen]
    counts = PlanCounts(
        num_shared_items=int(shared[cut.sources].sum()),
        num_folded_segments=num_folded,
        tokens_read=len(slots),
        tokens_read_flat=sum(chunk.end_position for chunk in chunks),
    )
    return Plan(
        item_rows=item_rows,
        item_row_starts=_starts(np.bincount(states_item, minlength=len(starts))),
        item_slots=slots,
        item_slot_starts=_starts(cut.lengths),
        item_start_positions=starts,
        row_states=np.argsort(item_rows, kind="stable").astype(np.int32),
        row_state_starts=_starts(np.bincount(item_rows, minlength=len(positions))),
        counts=counts,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """Each piece of an item: which item, where in it, how long."""

    sources: NDArray[np.int64]
    offsets: Int32Array
    lengths: Int32Array


def _cut(lengths: Int32Array, max_tokens: int | None) -> _Cut:
    if max_tokens is None or not len(lengths) or lengths.max() <= max_tokens:
        sources = np.arange(len(lengths))
        return _Cut(sources, np.zeros(len(lengths), dtype=np.int32), lengths)
    num_pieces = -(-lengths // max_tokens)
    sources = np.repeat(np.arange(len(lengths)), num_pieces)
    ordinals = np.arange(len(sources)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    begins = (ordinals * lengths[sources]) // num_pieces[sources]
    ends = ((ordinals + 1) * lengths[sources]) // num_pieces[sources]
    return _Cut(sources, begins.astype(np.int32), (ends - begins).astype(np.int32))


def _repeat_lists(
    values: Int32Array, counts: NDArray[np.int64], sources: NDArray[np.int64]
) -> tuple[Int32Array, NDArray[np.int64]]:
    if len(sources) == len(counts):
        return values, counts
    lists = np.split(values, np.cumsum(counts)[:-1])
    return _join([lists[source] for source in sources])


def _join(parts: list[Int32Array]) -> tuple[Int32Array, NDArray[np.int64]]:
    counts = np.array([len(part) for part in parts], dtype=np.int64)
    return np.concatenate([np.zeros(0, dtype=np.int32), *parts]), counts


def _join_rows(rows: list[Int32Array], chunks: list[int]) -> Int32Array:
    return rows[chunks[0]] if len(chunks) == 1 else np.concatenate([rows[c] for c in chunks])


def _starts(counts: NDArray[np.int64] | Int32Array) -> Int32Array:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _seen_slots(plan: Plan, items: NDArray[np.int64], position: int) -> Int32Array:
    runs = []
    for item in items[np.argsort(plan.item_start_positions[items])]:
        slots = plan.item_slots[plan.item_slot_starts[item] : plan.item_slot_starts[item + 1]]
        runs.append(slots[: position + 1 - plan.item_start_positions[item]])
    return np.concatenate(runs)
