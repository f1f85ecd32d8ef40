"""The truth about a plan: every row sees exactly its own tokens, each once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.plan.trie import Chunk, DecodingSample
from treeserve.scheduler.step import Int32Array, Plan
from treeserve.scheduler.tree.segment import Segment


def check_plan(
    plan: Plan, samples: Sequence[DecodingSample], chunks: Sequence[Chunk], positions: Int32Array
) -> None:
    """Raises AssertionError unless every row sees exactly its own tokens, each in one state.

    Slow, and of no use to the planner: everything is taken from the samples and chunks themselves.
    """
    _check_lists(plan, len(positions))
    num_states = np.diff(plan.item_row_starts)
    item_of_state = np.repeat(np.arange(plan.num_items), num_states)
    row = 0
    for sample in samples:
        modules = _module_slots(sample.leaf)
        own = np.concatenate([_path_slots(sample.leaf), sample.tail.slots])
        assert positions[row] == len(own) - 1, f"row {row} is at another position"
        _check_row(plan, item_of_state, row, modules, own)
        row += 1
    for chunk in chunks:
        assert chunk.first_row == row, "chunks are not in row order"
        modules, own = _module_slots(chunk.leaf), _path_slots(chunk.leaf)
        for end in range(chunk.end_position - chunk.num_rows + 1, chunk.end_position + 1):
            assert positions[row] == end - 1, f"row {row} is at another position"
            _check_row(plan, item_of_state, row, modules, own[:end])
            row += 1
    assert row == plan.num_rows, "a row belongs to nobody"


def _check_lists(plan: Plan, num_rows: int) -> None:
    num_states = len(plan.item_rows)
    assert plan.num_rows == num_rows, "a row is not planned"
    assert len(plan.row_states) == num_states == plan.row_state_starts[-1], "states and rows differ"
    assert np.array_equal(np.sort(plan.row_states), np.arange(num_states)), "a state is shared"
    owners = np.repeat(np.arange(plan.num_rows), np.diff(plan.row_state_starts))
    assert np.array_equal(plan.item_rows[plan.row_states], owners), "a state of another row"
    assert plan.item_row_starts[-1] == num_states, "states outside of items"
    assert len(plan.item_slot_starts) == len(plan.item_slot_ends) == plan.num_items
    assert (np.diff(plan.item_row_starts) > 0).all(), "an item without rows"
    assert (plan.item_slot_ends > plan.item_slot_starts).all(), "an item without tokens"
    assert (plan.item_slot_starts >= 0).all(), "slots outside of the arena"
    assert (plan.item_slot_ends <= len(plan.item_slots)).all(), "slots outside of the arena"
    by_start = np.argsort(plan.item_slot_starts)
    ends, starts = plan.item_slot_ends[by_start[:-1]], plan.item_slot_starts[by_start[1:]]
    assert (ends <= starts).all(), "two items in one place"


def _check_row(
    plan: Plan,
    item_of_state: NDArray[np.int64],
    row: int,
    modules: Int32Array,
    own: Int32Array,
) -> None:
    states = plan.row_states[plan.row_state_starts[row] : plan.row_state_starts[row + 1]]
    assert (np.diff(states) > 0).all(), "states are not in item order"
    items = item_of_state[states]
    position, before = 0, [modules[:0]]
    for item in items[np.argsort(plan.item_start_positions[items])].tolist():
        start = int(plan.item_start_positions[item])
        slots = plan.item_slots[plan.item_slot_starts[item] : plan.item_slot_ends[item]]
        before.append(slots[: max(0, -start)])
        slots = slots[max(0, -start) :]
        if start < 0 and not len(slots):
            continue
        assert max(0, start) == position, f"row {row}: a gap, or tokens twice"
        seen = slots[: len(own) - position]
        assert len(seen) > 0, f"row {row} sees nothing of item {item}"
        expected = own[position : position + len(seen)]
        assert np.array_equal(seen, expected), f"row {row} sees other tokens"
        position += len(seen)
    assert position == len(own), f"row {row} does not see all of its tokens"
    found = np.sort(np.concatenate(before))
    assert np.array_equal(found, np.sort(modules)), f"row {row} does not see its modules once each"


def _module_slots(leaf: Segment) -> Int32Array:
    return np.concatenate([leaf.slots[:0], *(module.slots for module in leaf.modules)])


def _path_slots(leaf: Segment) -> Int32Array:
    pieces = []
    segment = leaf
    while segment.parent is not None:
        pieces.append(segment.slots)
        segment = segment.parent
    return np.concatenate(pieces[::-1])
