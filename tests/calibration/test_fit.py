"""Constants that are hidden in times are found again, and what they decide is judged."""

from dataclasses import replace

import numpy as np
import pytest
from calibration.records import CONSTANTS

from treeserve.calibration.fit import (
    MeasuredPlans,
    find_crossovers,
    fit_constants,
    judge,
    predict_seconds,
)
from treeserve.calibration.workloads import (
    flat_workload,
    num_stored_tokens,
    one_prefix,
    scattered_slots,
    shared_workload,
    trees_for,
)
from treeserve.errors import CalibrationError

TREES = [tree for tree in trees_for("cpu") if num_stored_tokens(tree) < 5000]


def measured(tree, truth, factor=1.0) -> MeasuredPlans:
    slots = scattered_slots(num_stored_tokens(tree))
    shared, flat = shared_workload(tree, slots), flat_workload(tree, slots)
    times = (predict_seconds(truth, shared) * factor, predict_seconds(truth, flat) * factor)
    return MeasuredPlans(tree, shared, flat, *times)


def test_constants_are_found_again_though_some_plans_were_interrupted():
    truth = replace(CONSTANTS, item_cost=2e-6)
    plans = [measured(tree, truth, 30.0 if i % 10 == 3 else 1.0) for i, tree in enumerate(TREES)]
    found = fit_constants(plans, max_item_tokens=512)
    for name in (
        "token_cost",
        "state_cost",
        "sharing_cost",
        "row_token_cost",
        "stored_token_cost",
    ):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.05), name
    assert found.max_item_tokens == 512


def test_no_constant_is_negative_whatever_is_measured():
    noise = np.random.default_rng(0)
    plans = [measured(tree, CONSTANTS, noise.uniform(0.5, 2)) for tree in TREES]
    found = fit_constants(plans, None)
    found.cost_model()
    assert found.token_cost > 0


def test_times_that_do_not_grow_with_the_tokens_are_refused():
    plans = [replace(measured(tree, CONSTANTS), shared_seconds=1, flat_seconds=1) for tree in TREES]
    with pytest.raises(CalibrationError, match="do not grow"):
        fit_constants(plans, None)


def test_one_prefix_is_shared_exactly_where_the_constants_say_that_it_pays():
    """8e-5 / 3e-8 tokens are saved at 2,667 tokens and some states more."""
    prefixes = (64, 128, 256, 512, 1024, 2048, 4096)
    plans = [measured(one_prefix(n, batch), CONSTANTS) for batch in (2, 8) for n in prefixes]
    few, many = find_crossovers(CONSTANTS, plans)
    assert (few.batch, few.measured, few.predicted, few.longest) == (2, 4096, 4096, 4096)
    assert (many.batch, many.measured, many.predicted) == (8, 512, 512)


def test_a_prefix_that_never_pays_has_no_crossover():
    plans = [measured(one_prefix(n, 2), CONSTANTS) for n in (64, 128)]
    [crossover] = find_crossovers(CONSTANTS, plans)
    assert crossover.measured is None
    assert crossover.predicted is None


def test_perfect_predictions_of_one_prefix_lose_nothing():
    plans = [measured(one_prefix(n, 8), CONSTANTS) for n in (64, 256, 1024, 4096)]
    quality = judge(CONSTANTS, plans)
    assert quality.median_error == pytest.approx(0, abs=1e-9)
    assert (quality.num_trees, quality.num_wrong, quality.worst_loss) == (4, 0, 0)
    assert quality.why_not_trusted is None


def test_wrong_constants_are_found_out():
    plans = [measured(one_prefix(n, 8), CONSTANTS) for n in (64, 256, 1024, 4096)]
    free = replace(CONSTANTS, sharing_cost=0.0, state_cost=0.0, token_cost=3e-7)
    quality = judge(free, plans)
    assert quality.num_wrong > 0
    assert quality.worst_loss > 0.05
    assert "one prediction in ten misses by" in quality.why_not_trusted


def test_constants_that_predict_well_and_decide_badly_are_found_out_too():
    """Most of a plan's time is what every plan does, and says nothing about which is cheaper."""
    truth = replace(CONSTANTS, base_cost=2e-3)
    plans = [measured(one_prefix(n, 8), truth) for n in (64, 256, 1024, 4096)]
    timid = replace(truth, sharing_cost=1.0)
    assert judge(timid, plans).worst_loss > 0.05
    quality = replace(judge(timid, plans), p90_error=0.1, mean_loss=0.2)
    assert quality.why_not_trusted == "the plans chosen are 20% slower than the best on average"


def test_what_is_read_from_memory_and_what_is_read_again_have_prices_of_their_own():
    """One price for both missed a third of the times where few rows read a long prefix, and models
    with many KV heads were refused for it."""
    truth = replace(CONSTANTS, base_cost=5e-5, token_cost=2e-8, stored_token_cost=1e-7)
    plans = [measured(tree, truth) for tree in TREES]
    quality = judge(fit_constants(plans, None), plans)
    assert quality.p90_error < 0.01
