"""What is timed is the load that was asked for: its requests, its tree, and what is cached."""

import pytest

from treeserve.simulation.balanced_load import BalancedLoad, LoadShape
from treeserve.simulation.step_times import measure_steps
from treeserve.simulation.tree_times import measure_tree


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_all_requests_decode_over_a_tree_of_that_depth(depth):
    load = BalancedLoad(LoadShape(running=8, depth=depth, level_tokens=20), num_steps=4)
    load.step(num_ending=0)
    step = load.scheduler.schedule()
    assert (step.num_rows, step.num_prompt_rows, len(step.draws)) == (8, 0, 8)
    assert set(step.positions) == {depth * 20 + 16}
    nodes = {1: 8, 2: 3 + 8, 3: 2 + 4 + 8}[depth]
    assert load.scheduler.counts().running_samples == 8
    tail_tokens = 8 * 17
    alone = 8 * depth * 20
    assert step.plan.counts.tokens_read_flat == alone + tail_tokens
    assert nodes * 20 + tail_tokens <= step.plan.counts.tokens_read <= alone + tail_tokens


def test_churn_replaces_the_oldest_and_computes_their_leaves_only():
    load = BalancedLoad(LoadShape(running=8, depth=2, level_tokens=20), num_steps=4)
    load.step(num_ending=3)
    load.step(num_ending=0)
    step = load.scheduler.schedule()
    assert (step.num_rows, step.num_prompt_rows) == (8, 0)
    assert sorted(step.positions - 2 * 20) == [0, 0, 0, 17, 17, 17, 17, 17]


def test_the_cache_is_filled_besides():
    empty = BalancedLoad(LoadShape(running=4, depth=1), num_steps=1).scheduler.counts()
    shape = LoadShape(running=4, depth=1, cached_tokens=10_000)
    full = BalancedLoad(shape, num_steps=1).scheduler.counts()
    assert 10_000 // 16 <= full.cached_pages - empty.cached_pages <= 10_500 // 16


def test_step_times_say_what_was_measured():
    shape = LoadShape(running=8, depth=2, level_tokens=20)
    decode, churn = measure_steps(shape, 5), measure_steps(shape, 5, churn=0.25)
    assert (decode.mode, decode.ending_per_step, decode.steps) == ("decode", 0, 5)
    assert (churn.mode, churn.ending_per_step, churn.steps) == ("churn", 2, 5)
    for times in (decode, churn):
        assert 0 < times.plan_ms_p50 <= times.host_ms_p50 <= times.host_ms_p99


def test_tree_times_leave_the_tree_as_full_as_it_was():
    times = measure_tree(20_000, 1_000, 4_000, rounds=2)
    assert 20_000 // 256 <= times.tree_segments <= 20_000 // 256 + 16
    assert min(times.match_ms, times.insert_ms, times.evict_ms) > 0
