"""Attention that takes what constants say: a busy machine's own times would decide a test."""

import math

import pytest
from calibration.records import CONSTANTS

from treeserve.calibration import calibrate, measure
from treeserve.calibration.fit import Constants, predict_seconds
from treeserve.calibration.measure import AttentionTimer, StepSeconds
from treeserve.calibration.workloads import Item, Workload
from treeserve.scheduler.step import Step


def measure_steadily(
    monkeypatch: pytest.MonkeyPatch, constants: Constants = CONSTANTS, *, attends: bool = False
) -> None:
    """Whatever is measured from now on takes as long as `constants` say, however busy the machine.

    Rounds are counted, and no deadline passes. With `attends` every step is run once all the same,
    as it would be to be timed.
    """
    run = AttentionTimer._run
    seen: dict[int, Step] = {}

    def run_steadily(self: AttentionTimer, step: Step) -> StepSeconds:
        if attends and id(step) not in seen:
            seen[id(step)] = step
            run(self, step)
        seconds = predict_seconds(constants, workload_of(step))
        return StepSeconds(seconds, seconds)

    # Caches are not emptied before, for no clock looks.
    for name in ("_run", "_run_cold"):
        monkeypatch.setattr(AttentionTimer, name, run_steadily)
    monkeypatch.setattr(measure, "_MAX_ROUNDS", 2)
    for share in ("_CHOICE_SHARE", "_CUT_SHARE", "_MEASURE_SHARE", "_PATIENCE"):
        monkeypatch.setattr(calibrate, share, math.inf)


def workload_of(step: Step) -> Workload:
    """The workload that a step carries out."""
    plan = step.plan
    items = []
    for index in range(plan.num_items):
        rows = plan.item_rows[plan.item_row_starts[index] : plan.item_row_starts[index + 1]]
        slots = plan.item_slots[plan.item_slot_starts[index] : plan.item_slot_ends[index]]
        items.append(Item(rows, slots, int(plan.item_start_positions[index])))
    return Workload(items, plan.num_rows, int(step.positions[0]))
