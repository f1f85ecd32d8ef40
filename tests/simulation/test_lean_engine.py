"""The lean engine does what the scheduler does, in as much time, and says so much sooner."""

import math
from dataclasses import replace

import numpy as np
import pytest

from treeserve.config import SchedulerConfig
from treeserve.simulation.cluster import simulate_cluster
from treeserve.simulation.cluster_workloads import CLUSTER_WORKLOADS
from treeserve.simulation.device import preset
from treeserve.simulation.engine import Arrival
from treeserve.simulation.lean_cache import LeanCache
from treeserve.simulation.lean_engine import LeanEngine
from treeserve.simulation.ledger import Ledger
from treeserve.simulation.runs import Run, block_runs, root_key
from treeserve.simulation.scheduled_engine import ScheduledEngine
from treeserve.simulation.trace import TraceRequest

CONFIG = SchedulerConfig(num_pages=20_000, token_budget=2048, max_running=128)
DEVICE = preset("h100-8b")


@pytest.mark.parametrize("name", ["prompts", "contest", "agents"])
def test_a_trace_costs_and_takes_as_much_as_with_the_real_scheduler(name):
    trace = CLUSTER_WORKLOADS[name](2, 3)
    exact, lean = (
        simulate_cluster(trace, 2, DEVICE, CONFIG, engines=kind) for kind in ("scheduler", "lean")
    )
    assert lean.output_tokens == exact.output_tokens
    assert lean.computed_tokens == pytest.approx(exact.computed_tokens, rel=0.05)
    assert lean.least_tokens == exact.least_tokens
    assert lean.makespan_seconds == pytest.approx(exact.makespan_seconds, rel=0.05)
    assert lean.load.rows_per_second == pytest.approx(exact.load.rows_per_second, rel=0.05)
    assert lean.load.mean_streams == pytest.approx(exact.load.mean_streams, rel=0.1)
    ours, real = lean.time_to_first_token.p50, exact.time_to_first_token.p50
    assert ours == pytest.approx(real, abs=0.05)


def request(name: str, blocks=(1, 2), lengths=(10,), length: int = 1000) -> TraceRequest:
    return TraceRequest(
        request_id=name,
        arrival_seconds=0.0,
        input_length=length,
        block_ids=blocks,
        output_lengths=lengths,
        max_tokens=max(lengths),
    )


def arrival(wanted: TraceRequest, number: int = 0) -> Arrival:
    runs = block_runs(wanted, root_key(""))
    return Arrival(wanted, number, wanted.own_tokens(), runs)


def engine_for(kind, requests, config=CONFIG):
    ledger = Ledger(requests, {r.request_id: r.max_tokens for r in requests})
    return kind(DEVICE, config, ledger)


def run(engine, arrivals) -> tuple[list[str], float]:
    """Arrivals are (seconds, request); who ended, in order, and when the last one did."""
    coming = [(at, arrival(wanted, number)) for number, (at, wanted) in enumerate(arrivals)]
    ended, now = [], 0.0
    while coming or engine.due < math.inf:
        if coming and coming[0][0] < engine.due:
            at, one = coming.pop(0)
            engine.add(one, at)
        else:
            now = engine.due
            ended += [done.request_id for done in engine.advance()]
    return ended, now


def test_two_streams_of_which_one_comes_in_the_middle_end_when_the_scheduler_says():
    early = request("early", lengths=(200, 150))
    late = request("late", blocks=(1, 3), lengths=(50,))
    found = {}
    for kind in (ScheduledEngine, LeanEngine):
        engine = engine_for(kind, [early, late])
        found[kind] = run(engine, [(0.0, early), (0.3005, late)])
        done = engine.done_until(found[kind][1])
        assert done.stream_seconds > done.busy_seconds
        found[kind, "rows"] = done.num_rows
    assert found[LeanEngine][0] == found[ScheduledEngine][0] == ["late", "early"]
    assert found[LeanEngine][1] == pytest.approx(found[ScheduledEngine][1], rel=0.01)
    assert found[LeanEngine, "rows"] == found[ScheduledEngine, "rows"]


def test_what_is_done_is_known_in_the_middle_of_steps_that_are_taken_as_one():
    alone = request("alone", lengths=(1000,))
    exact = engine_for(ScheduledEngine, [alone])
    lean = engine_for(LeanEngine, [alone])
    for engine in (exact, lean):
        engine.add(arrival(alone), 0.0)
    lean.advance()  # the prompt
    middle = lean.due / 2
    while exact.due <= middle:
        exact.advance()
    done, real = lean.done_until(middle), exact.done_until(middle)
    assert real.num_rows > 1400
    assert done.num_rows == pytest.approx(real.num_rows, abs=3)
    assert done.stream_seconds == pytest.approx(real.stream_seconds, rel=0.03)
    lean.advance()
    assert lean.done_until(lean.due).num_rows == 1999


def test_nobody_is_admitted_beyond_the_places():
    few = replace(CONFIG, max_running=4)
    requests = [request(str(i), blocks=(1, 10 + i), lengths=(20, 20, 20)) for i in range(3)]
    crowded = run(engine_for(LeanEngine, requests, few), [(0.0, r) for r in requests])
    free = run(engine_for(LeanEngine, requests), [(0.0, r) for r in requests])
    assert crowded[0] == ["0", "1", "2"]
    assert crowded[1] > 1.8 * free[1]


def test_a_request_that_asks_for_more_than_there_is_runs_alone():
    few = replace(CONFIG, max_running=2)
    requests = [request("wide", lengths=(9, 9, 9)), request("narrow")]
    ended, _ = run(engine_for(LeanEngine, requests, few), [(0.0, r) for r in requests])
    assert ended == ["wide", "narrow"]


def test_what_was_used_least_recently_leaves_and_what_is_in_use_does_not():
    cache = LeanCache(100)
    trunk, old, new = Run(1, 50), Run(2, 30), Run(3, 40)
    cache.pin([trunk, old])
    assert cache.num_missing([trunk, new]) == 40
    cache.unpin([trunk, old])
    cache.pin([trunk, new])
    cache.evict(0)
    assert cache.num_tokens == 90
    assert cache.num_missing([trunk, old]) == 30
    cache.evict(1000)
    assert cache.num_missing([trunk, new]) == 0
    cache.unpin([trunk, new])
    cache.evict(60)
    # What follows a run leaves before it.
    assert cache.num_tokens == 0


def test_a_trunk_outlives_what_follows_it():
    cache = LeanCache(100)
    trunk, rest = Run(1, 50), Run(2, 30)
    cache.pin([trunk, rest])
    cache.hold(Run(3, 10))
    cache.unpin([trunk, rest])
    cache.evict(30)
    assert cache.num_missing([trunk, rest]) == 30
    assert cache.num_tokens == 50


def test_a_run_without_tokens_hides_nothing_that_follows():
    cache = LeanCache(100)
    cache.pin([Run(1, 10)])
    assert cache.num_missing([Run(1, 10), Run(2, 0), Run(3, 5)]) == 5


def test_prompts_are_alike_as_long_as_their_runs_are():
    same = [block_runs(request(name, blocks), root_key("")) for name, blocks in
            (("a", (1, 2)), ("b", (1, 3)))]  # fmt: skip
    other = block_runs(request("c", (1, 2)), root_key("tenant"))
    short = block_runs(request("d", (1, 2), length=900), root_key(""))
    assert same[0][0] == same[1][0]
    assert same[0][1] != same[1][1]
    assert other[0] != same[0][0]
    assert short[1] != same[0][1]
    assert [run.num_tokens for run in short] == [512, 388]
    assert np.array_equal(request("a").own_tokens()[:512], request("b").own_tokens()[:512])
