"""A few callers, each with one call at a time, before two replicas: what most people try first."""

import random
import statistics
from dataclasses import dataclass

import pytest

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.router import RoutedRequest, Router, expected_tokens
from treeserve.config import SchedulerConfig
from treeserve.simulation.cluster import replica_ids
from treeserve.simulation.engine import Arrival
from treeserve.simulation.least_copies import least_copies
from treeserve.simulation.ledger import Ledger
from treeserve.simulation.scheduled_engine import ScheduledEngine
from treeserve.simulation.trace import TraceRequest

TRUNK_TOKENS, OWN_TOKENS = 900, 150


@dataclass(frozen=True)
class Found:
    computed_tokens: int
    imbalance: float


def contests(counts, seed=0) -> list[TraceRequest]:
    """So many calls under each trunk, in a random order, each with six samples."""
    chance = random.Random(seed)
    trunks = [trunk for trunk, count in enumerate(counts, start=1) for _ in range(count)]
    chance.shuffle(trunks)
    return [
        TraceRequest(
            request_id=str(number),
            arrival_seconds=0.0,
            input_length=TRUNK_TOKENS + OWN_TOKENS,
            block_ids=(trunk, 1000 + number),
            block_size=TRUNK_TOKENS,
            output_lengths=(length := chance.randint(16, 48),) * 6,
            max_tokens=length,
        )
        for number, trunk in enumerate(trunks)
    ]


def closed_loop(trace, device, num_replicas=2, num_streams=16) -> Found:
    """The real router before real schedulers; a call is sent when another one has ended."""
    router = Router(RouterConfig(), clock=lambda: 0.0)
    router.update_replicas(replica_ids(num_replicas))
    ledger = Ledger(trace, {request.request_id: request.max_tokens for request in trace})
    config = SchedulerConfig(num_pages=4096, token_budget=2048, max_running=128)
    engines = {i: ScheduledEngine(device, config, ledger) for i in router.replica_ids}
    numbers = iter(range(len(trace)))
    computed = 0

    def send(now: float) -> None:
        number = next(numbers, None)
        if number is None:
            return
        request = trace[number]
        tokens = request.own_tokens()
        expected = expected_tokens(request.num_samples, request.max_tokens)
        routed = RoutedRequest(request.request_id, "", tokens, expected, request.request_id)
        replica_id = router.choose(routed).replica_id
        router.routed(routed, replica_id)
        ledger.arrived(request.request_id, now)
        engines[replica_id].add(Arrival(request, number, tokens, ()), now)

    for _ in range(num_streams):
        send(0.0)
    while (engine := min(engines.values(), key=lambda engine: engine.due)).due < float("inf"):
        now = engine.due
        for ended in engine.advance():
            computed += ended.usage.computed_tokens
            router.completed(ended.request_id)
            send(now)
    rows = [engine.done_until(now).num_rows for engine in engines.values()]
    return Found(computed, max(rows) / statistics.fmean(rows))


@pytest.fixture
def slow_device(make_device):
    """On which a token takes as long as on a CPU."""
    return make_device(flops_per_row=1.5e-3, overhead_seconds=5e-3)


@pytest.mark.parametrize("seed", range(2))
def test_two_replicas_share_four_contests_without_computing_any_of_them_twice(slow_device, seed):
    trace = contests((15, 13, 10, 10), seed)
    assert least_copies(trace, 2).again_tokens == 0
    least = 4 * TRUNK_TOKENS + len(trace) * OWN_TOKENS
    found = closed_loop(trace, slow_device)
    assert found.computed_tokens <= 1.05 * least
    assert found.imbalance < 1.2


def test_the_only_contest_is_copied_once_so_that_no_replica_is_idle(slow_device):
    trace = contests((96,))
    assert least_copies(trace, 2).again_tokens == TRUNK_TOKENS
    found = closed_loop(trace, slow_device)
    assert found.computed_tokens == 2 * TRUNK_TOKENS + len(trace) * OWN_TOKENS
    assert found.imbalance < 1.2
