"""The calibration as a whole: which plans are measured, in which order, and what comes of it."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import torch

from treeserve.calibration.cuts import CutRounds, choose_cut
from treeserve.calibration.fit import (
    MeasuredPlans,
    find_crossovers,
    fit_constants,
    judge,
)
from treeserve.calibration.measure import AttentionTimer
from treeserve.calibration.record import Calibration
from treeserve.calibration.subject import Subject
from treeserve.calibration.workloads import (
    Tree,
    Workload,
    cut_workload,
    flat_workload,
    make_step,
    num_stored_tokens,
    scattered_slots,
    shared_workload,
    trees_for,
)
from treeserve.errors import CalibrationError
from treeserve.scheduler.step import Int32Array

_CHOICE_SHARE = 0.25
"""Of the time, for finding out which plans are quick enough."""
_CUT_SHARE = 0.1
"""Of the time, twice, for finding out whether cutting pays."""
_MEASURE_SHARE = 0.5
"""Of the time, at least, for the plans."""
_PATIENCE = 2.5
"""Times as long, and it is given up."""
_LONGEST_PLAN_SHARE = 1 / 2000
_LONGEST_PLAN_SECONDS = 2e-3
"""A plan whose layer takes more than both is not measured: it is all tokens anyway, and the longer
a run, the likelier is something to come between."""
_SLOW_IN_A_ROW = 3
"""After which longer plans are not tried."""
_MIN_TREES = 20
_HELD_OUT_EVERY = 3


def calibrate(
    subject: Subject,
    device: torch.device,
    *,
    seconds: float,
    report: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """Measure plans over synthetic trees and fit the cost model's constants to them.

    Args:
        subject: What the attention is like.
        device: Where it runs.
        seconds: About how long to measure; more makes the figures steadier.
        report: Is told what is being done, a line at a time.

    Raises:
        CalibrationError: The backend is too slow to be measured in this time, or the device busy.
    """
    started = time.perf_counter()
    trees = trees_for(device.type)
    slots = scattered_slots(max(num_stored_tokens(tree) for tree in trees))
    report(f"measuring {subject.backend} attention for about {seconds:.0f} s")
    timer = _make_timer(subject, device, trees, slots, seconds)
    warmed_up = time.perf_counter()
    cuts = CutRounds(timer, slots)
    cuts.measure(seconds * _CUT_SHARE)
    trees = _quick_enough(timer, trees, slots, seconds)
    cuts.measure(seconds * _CUT_SHARE)
    max_item_tokens = choose_cut(cuts.per_layer(subject.num_layers))
    report(f"{2 * len(trees)} plans in turn")
    left = max(warmed_up + seconds - time.perf_counter(), seconds * _MEASURE_SHARE)
    plans = _measure(timer, subject, trees, slots, max_item_tokens, left)
    fitted = [plan for index, plan in enumerate(plans) if index % _HELD_OUT_EVERY]
    constants = fit_constants(fitted, max_item_tokens)
    return Calibration(
        subject=subject,
        constants=constants,
        quality=judge(constants, plans[::_HELD_OUT_EVERY]),
        crossovers=tuple(find_crossovers(constants, plans)),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
    )


def _make_timer(
    subject: Subject, device: torch.device, trees: Sequence[Tree], slots: Int32Array, seconds: float
) -> AttentionTimer:
    # Kernels differ by how many rows an item has: one tree for each number of rows compiles all.
    by_rows = {tree[-1].num_nodes: tree for tree in reversed(trees)}
    smallest = [
        make_step(plan(tree, slots))
        for tree in by_rows.values()
        for plan in (flat_workload, shared_workload)
    ]
    return AttentionTimer(
        subject,
        device,
        num_slots=len(slots),
        num_rows=max(tree[-1].num_nodes for tree in trees),
        warm_up=smallest,
        patience_seconds=seconds * _PATIENCE,
    )


def _quick_enough(
    timer: AttentionTimer, trees: Sequence[Tree], slots: Int32Array, seconds: float
) -> list[Tree]:
    """Those whose ordinary attention does not take too long; the trees are ascending."""
    deadline = time.perf_counter() + seconds * _CHOICE_SHARE
    limit = max(seconds * _LONGEST_PLAN_SHARE, _LONGEST_PLAN_SECONDS)
    kept: list[Tree] = []
    num_slow = 0
    for tree in trees:
        quick = timer.is_quick(make_step(flat_workload(tree, slots)), limit)
        kept += [tree] * quick
        num_slow = 0 if quick else num_slow + 1
        if num_slow == _SLOW_IN_A_ROW or time.perf_counter() > deadline:
            break
    if len(kept) < _MIN_TREES:
        raise CalibrationError(
            f"calibration: too little can be measured in {seconds:g} s: the attention is too slow, "
            "or the machine too busy"
        )
    return kept


def _measure(
    timer: AttentionTimer,
    subject: Subject,
    trees: Sequence[Tree],
    slots: Int32Array,
    max_item_tokens: int | None,
    seconds: float,
) -> list[MeasuredPlans]:
    def cut(workload: Workload) -> Workload:
        return cut_workload(workload, max_item_tokens)

    shared = [cut(shared_workload(tree, slots)) for tree in trees]
    flat = [cut(flat_workload(tree, slots)) for tree in trees]
    steps = [make_step(workload) for pair in zip(shared, flat, strict=True) for workload in pair]
    taken = [t.per_layer(subject.num_layers) for t in timer.time_in_turn(steps, seconds)]
    return [
        MeasuredPlans(*plans)
        for plans in zip(trees, shared, flat, taken[::2], taken[1::2], strict=True)
    ]
