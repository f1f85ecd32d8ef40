"""A step as arrays, which rank 0 sends to the others: what they need of it to compute along."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treeserve.scheduler.step import (
    Draws,
    Int32Array,
    Plan,
    PlanCounts,
    Scores,
    SlotChanges,
    Step,
)

_NOTHING = np.zeros(0, np.int32)
NUM_ARRAYS = 17
"""Of every message."""


class Received(NamedTuple):
    """A step as it arrived."""

    step: Step
    num_last_drawn: int
    """Tokens that the step before drew and this one's rows need from the device; 0: none."""


class _NewSlots(NamedTuple):
    """What is new in a plan's `item_slots`."""

    is_whole: bool
    entries: Int32Array
    """[num_new] which entries; none where it is the whole array."""
    slots: Int32Array
    """[num_new] what they hold."""


class StepWriter:
    """Writes one step after another; of the slots only what the last message did not say."""

    def __init__(self) -> None:
        self._known: object | None = None
        """State of the slots that the reader has."""

    def write(self, step: Step, num_last_drawn: int) -> list[Int32Array]:
        """The message: NUM_ARRAYS arrays, each [any length].

        Args:
            step: With at least one row.
            num_last_drawn: As in Received.
        """
        plan, scores = step.plan, step.scores
        new = self._new_slots(plan)
        scalars = [
            step.number,
            step.num_prompt_rows,
            -1 if scores is None else scores.num_top,
            num_last_drawn,
            len(plan.item_slots),
            new.is_whole,
        ]
        return [
            np.array(scalars, np.int32),
            step.token_ids,
            step.positions,
            step.write_slots,
            step.logits_rows,
            plan.item_rows,
            plan.item_row_starts,
            plan.item_slot_starts,
            plan.item_slot_ends,
            plan.item_start_positions,
            plan.row_states,
            plan.row_state_starts,
            new.entries,
            new.slots,
            _NOTHING if scores is None else scores.rows,
            _NOTHING if scores is None else scores.targets,
            _NOTHING if step.maybe_model_positions is None else step.maybe_model_positions,
        ]

    def _new_slots(self, plan: Plan) -> _NewSlots:
        changes, known = plan.slot_changes, self._known
        self._known = None if changes is None else changes.state
        if changes is not None and known is not None:
            if changes.state is known:
                return _NewSlots(False, _NOTHING, _NOTHING)
            if changes.since is known:
                entries = changes.entries()
                return _NewSlots(False, entries, plan.item_slots[entries])
        return _NewSlots(True, _NOTHING, plan.item_slots)


class StepReader:
    """Reads the messages of one writer, all of them and in order."""

    def __init__(self) -> None:
        self._arena = _NOTHING
        self._state: object = object()

    def read(self, arrays: Sequence[Int32Array]) -> Received:
        """The step, without its draws: they are rank 0's. Its slots are good until the next."""
        number, num_prompt_rows, num_top, num_last_drawn, num_slots, is_whole = arrays[0].tolist()
        token_ids, positions, write_slots, logits_rows = arrays[1:5]
        scores = Scores(arrays[14], arrays[15], num_top, ()) if num_top >= 0 else None
        step = Step(
            number=number,
            token_ids=token_ids,
            positions=positions,
            write_slots=write_slots,
            logits_rows=logits_rows,
            keeps=(),
            draws=Draws((), _NOTHING, _NOTHING),
            plan=self._plan(
                arrays[5:12], self._update(num_slots, is_whole, *arrays[12:14]), num_slots
            ),
            num_prompt_rows=num_prompt_rows,
            scores=scores,
            maybe_model_positions=arrays[16] if len(arrays[16]) else None,
        )
        return Received(step, num_last_drawn)

    def _plan(self, lists: Sequence[Int32Array], changes: SlotChanges, num_slots: int) -> Plan:
        rows, row_starts, slot_starts, slot_ends, start_positions, states, state_starts = lists
        return Plan(
            item_rows=rows,
            item_row_starts=row_starts,
            item_slots=self._arena[:num_slots],
            item_slot_starts=slot_starts,
            item_slot_ends=slot_ends,
            item_start_positions=start_positions,
            row_states=states,
            row_state_starts=state_starts,
            counts=PlanCounts(),
            slot_changes=changes,
        )

    def _update(
        self, num_slots: int, is_whole: bool, entries: Int32Array, slots: Int32Array
    ) -> SlotChanges:
        since, self._state = self._state, object()
        if len(self._arena) < num_slots:
            grown = np.zeros(max(num_slots, 2 * len(self._arena)), np.int32)
            grown[: len(self._arena)] = self._arena
            self._arena = grown
        if is_whole:
            self._arena[:num_slots] = slots
            none = np.zeros(0, np.int64)
            return SlotChanges(since=None, state=self._state, starts=none, ends=none)
        self._arena[entries] = slots
        starts = entries.astype(np.int64)
        return SlotChanges(since=since, state=self._state, starts=starts, ends=starts + 1)
