"""The triton backend's costs: those that engines start with, and those measured on it."""

import pytest
import torch
from calibration.records import CONSTANTS
from calibration.steady import measure_steadily

from treeserve.attention.backend import default_cost_model
from treeserve.calibration.choice import choose_costs
from treeserve.calibration.fit import MeasuredPlans, find_crossovers, fit_constants, judge
from treeserve.calibration.measure import AttentionTimer
from treeserve.calibration.record import Calibration
from treeserve.calibration.store import store_calibration
from treeserve.calibration.subject import make_subject
from treeserve.calibration.verdict import plan_of, shares
from treeserve.calibration.workloads import (
    Level,
    flat_workload,
    make_step,
    num_stored_tokens,
    one_prefix,
    scattered_slots,
    shared_workload,
)
from treeserve.probe import AttentionLayer

EIGHT_HEADS = default_cost_model("triton", 2 * 8 * 128)


@pytest.mark.parametrize(
    ("prefix", "batch", "shared"),
    [
        (16384, 1, False),
        (64, 1, False),
        (64, 2, False),
        (64, 8, False),
        (64, 32, False),
        (256, 4, False),
        (1024, 32, True),
        (4096, 4, True),
        (256, 256, True),
    ],
)
def test_the_built_in_costs_share_where_it_saves_more_than_a_merge(prefix, batch, shared):
    assert shares(one_prefix(prefix, batch), EIGHT_HEADS) == shared


def test_rows_with_nothing_in_common_are_planned_alone():
    assert not shares((Level(64, 300), Level(64, 32)), EIGHT_HEADS)


def test_one_long_row_is_cut_so_that_it_occupies_the_whole_device():
    """132 multiprocessors; each KV head of an item is a unit of work of its own."""
    plan = plan_of(one_prefix(16384, 1), EIGHT_HEADS)
    lengths = plan.item_slot_ends - plan.item_slot_starts
    assert 8 * len(lengths) >= 132
    assert max(lengths) - min(lengths) <= 1


def test_a_calibration_of_the_triton_backend_is_measured_stored_and_planned_by(
    tmp_path, monkeypatch
):
    """Under the interpreter, whose times mean nothing: they are what these constants say."""
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    measure_steadily(monkeypatch, attends=True)
    cpu = torch.device("cpu")
    layer = AttentionLayer(num_kv_heads=1, head_dim=16, num_heads=2, window=None)
    subject = make_subject([layer] * 2, "triton", torch.float32, cpu)
    trees = [one_prefix(prefix, batch) for batch in (1, 3) for prefix in (32, 96, 256)]
    slots = scattered_slots(max(map(num_stored_tokens, trees)))
    pairs = [(shared_workload(tree, slots), flat_workload(tree, slots)) for tree in trees]
    steps = [make_step(workload) for pair in pairs for workload in pair]
    timer = AttentionTimer(subject, cpu, len(slots), 4, steps[:2], patience_seconds=600)
    taken = [t.per_layer(2) for t in timer.time_in_turn(steps, 1)]
    plans = [
        MeasuredPlans(tree, *pair, *times)
        for tree, pair, times in zip(
            trees, pairs, zip(taken[::2], taken[1::2], strict=True), strict=True
        )
    ]
    constants = fit_constants(plans, 512)
    assert constants.token_cost == pytest.approx(CONSTANTS.token_cost, rel=0.05)
    calibration = Calibration(
        subject=subject,
        constants=constants,
        quality=judge(constants, plans),
        crossovers=tuple(find_crossovers(constants, plans)),
        measured_at="2026-11-21T18:00:00+00:00",
        seconds=1.0,
    )
    store_calibration(calibration)
    assert choose_costs("auto", subject, cpu, print).model == constants.cost_model()
    assert choose_costs("off", subject, cpu, print).model == default_cost_model("triton", 32)
