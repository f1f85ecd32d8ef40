"""A cluster on paper: one trace, many real schedulers, and the real router before them."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.held_prefixes import HeldPrefixes
from treeserve.cluster.router import (
    ReplicaStats,
    Route,
    RoutedRequest,
    Router,
    expected_tokens,
)
from treeserve.config import SchedulerConfig
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Int32Array, Step
from treeserve.simulation.device import PaperDevice
from treeserve.simulation.ledger import Ledger
from treeserve.simulation.result import Distribution
from treeserve.simulation.trace import TraceRequest

_STATS_SECONDS = 1.0
"""Virtual; every so often a replica says what it holds and has to do."""


class Routing(Protocol):
    """What decides where requests go."""

    def choose(self, request: RoutedRequest) -> Route: ...

    def routed(self, request: RoutedRequest, replica_id: str) -> None: ...

    def drew(self, namespace: str, name: str, tokens: Int32Array) -> None: ...

    def completed(self, request_id: str) -> None: ...

    def report(self, replica_id: str, stats: ReplicaStats) -> None: ...


class TwoChoices:
    """The replica with fewer open requests of two, chosen at random: Ray Serve's default."""

    def __init__(self, replica_ids: Sequence[str], seed: int = 0) -> None:
        self._ids = list(replica_ids)
        self._open: Counter[str] = Counter()
        self._where: dict[str, str] = {}
        self._random = np.random.default_rng(seed)

    def choose(self, request: RoutedRequest) -> Route:
        size = min(2, len(self._ids))
        two = [self._ids[i] for i in self._random.choice(len(self._ids), size, replace=False)]
        return Route(min(two, key=lambda replica_id: self._open[replica_id]), 0, "balance")

    def routed(self, request: RoutedRequest, replica_id: str) -> None:
        self._open[replica_id] += 1
        self._where[request.request_id] = replica_id

    def drew(self, namespace: str, name: str, tokens: Int32Array) -> None:
        """It does not care."""

    def completed(self, request_id: str) -> None:
        self._open[self._where.pop(request_id)] -= 1

    def report(self, replica_id: str, stats: ReplicaStats) -> None:
        """It knows all that it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult:
    """One trace on one cluster; times are virtual seconds, but for those of decisions."""

    num_replicas: int
    num_requests: int
    makespan_seconds: float
    prompt_tokens: int
    computed_tokens: int
    """Of prompts."""
    least_tokens: int
    """That one replica would compute which holds everything from its first draw on."""
    output_tokens: int
    imbalance: float
    """Of the replicas' busy seconds: the longest over the mean."""
    warm_computed_tokens: int
    """As computed_tokens, of the requests that came in the later half alone: by then every replica
    holds what it was sent first."""
    warm_least_tokens: int
    warm_imbalance: float
    """From the first request of the later half on."""
    time_to_first_token: Distribution
    end_to_end: Distribution
    decision_ms: Distribution
    """Real milliseconds of choosing a replica and noting it."""
    reasons: dict[str, int] = field(default_factory=dict)
    num_nodes: int = 0
    """Of the router's tree, at the end."""
    num_tree_tokens: int = 0

    @property
    def excess(self) -> float:
        """Prompt tokens computed beyond the least, as a part of it."""
        return self.computed_tokens / self.least_tokens - 1

    @property
    def warm_excess(self) -> float:
        """The same, of the requests that came in the later half."""
        return self.warm_computed_tokens / self.warm_least_tokens - 1


Progress = Callable[[int, float], None]
"""(requests that ended, virtual seconds)"""


def simulate_cluster(
    trace: Sequence[TraceRequest],
    num_replicas: int,
    device: PaperDevice,
    config: SchedulerConfig,
    routing: Routing | None = None,
    progress: Progress | None = None,
) -> ClusterResult:
    """Runs the trace to its end.

    Args:
        trace: Without deadlines.
        num_replicas: Named "0", "1" and so on.
        device: Of each.
        config: Of each replica's scheduler.
        routing: None: the router with its default options.
        progress: Called after each step of a replica.
    """
    ids = replica_ids(num_replicas)
    if routing is None:
        router = Router(RouterConfig())
        router.update_replicas(ids)
        routing = router
    simulation = _Cluster(trace, ids, device, config, routing)
    while simulation.advance():
        if progress is not None:
            progress(simulation.num_ended, simulation.now)
    return simulation.result()


def replica_ids(num_replicas: int) -> list[str]:
    """As the simulation names them."""
    return [str(index) for index in range(num_replicas)]


@dataclass(slots=True)
class _Replica:
    scheduler: Scheduler
    num_cached_tokens: Callable[[], int]
    capacity_tokens: int
    step: Step | None = None
    busy_seconds: float = 0.0


@dataclass(slots=True)
class _Tokens:
    """Of prompts, of some of the requests."""

    least: int = 0
    computed: int = 0


class _Cluster:
    """Events in the order of their times: arrivals, ends of steps, and reports."""

    def __init__(
        self,
        trace: Sequence[TraceRequest],
        ids: Sequence[str],
        device: PaperDevice,
        config: SchedulerConfig,
        routing: Routing,
    ) -> None:
        self.now = 0.0
        self.num_ended = 0
        self._trace = {request.request_id: request for request in trace}
        self._device = device
        self._routing = routing
        self._replicas = {i: self._make_replica(config) for i in ids}
        self._where: dict[str, str] = {}
        self._prompts: dict[str, Int32Array] = {}
        self._children: dict[str, list[str]] = defaultdict(list)
        self._events: list[tuple[float, int, str, str]] = []
        self._num_events = 0
        self._decisions: list[float] = []
        self._reasons: Counter[str] = Counter()
        self._seen = HeldPrefixes()
        self._seen.add_replica(0, 1 << 60)
        self._prompt = self._num_arrived = 0
        self._early, self._warm = _Tokens(), _Tokens()
        self._warm_requests: set[str] = set()
        self._busy_before: list[float] = [0.0] * len(ids)
        self._ledger = Ledger(trace, {r.request_id: max(r.output_lengths) for r in trace})
        self._config = config
        for request in trace:
            if request.parent is None:
                self._push(request.arrival_seconds, "arrival", request.request_id)
            else:
                self._children[request.parent].append(request.request_id)
        for replica_id in ids:
            self._push(_STATS_SECONDS, "report", replica_id)

    def advance(self) -> bool:
        """One event; False when all requests have ended."""
        if self.num_ended == len(self._trace):
            return False
        self.now, _, kind, name = heapq.heappop(self._events)
        if kind == "arrival":
            self._arrive(self._trace[name])
        elif kind == "report":
            self._report(name)
            self._push(_STATS_SECONDS, "report", name)
        else:
            self._complete(self._replicas[name])
            self._start(name)
        return True

    def result(self) -> ClusterResult:
        busy = self._busy()
        later = [after - before for after, before in zip(busy, self._busy_before, strict=True)]
        whole = self._ledger.result(self._config)
        held = self._routing.held if isinstance(self._routing, Router) else None
        return ClusterResult(
            num_replicas=len(self._replicas),
            num_requests=len(self._trace),
            makespan_seconds=whole.makespan_seconds,
            prompt_tokens=self._prompt,
            computed_tokens=self._early.computed + self._warm.computed,
            least_tokens=self._early.least + self._warm.least,
            output_tokens=whole.output_tokens,
            imbalance=_imbalance(busy),
            warm_computed_tokens=self._warm.computed,
            warm_least_tokens=self._warm.least,
            warm_imbalance=_imbalance(later),
            time_to_first_token=whole.time_to_first_token,
            end_to_end=whole.end_to_end,
            decision_ms=Distribution.of([seconds * 1e3 for seconds in self._decisions]),
            reasons=dict(self._reasons),
            num_nodes=held.num_nodes if held else 0,
            num_tree_tokens=held.num_tokens if held else 0,
        )

    def _make_replica(self, config: SchedulerConfig) -> _Replica:
        scheduler = Scheduler(config, self._device.cost_model(), lambda: self.now)

        def num_cached_tokens() -> int:
            return scheduler.counts().used_pages * config.page_size

        return _Replica(scheduler, num_cached_tokens, config.num_pages * config.page_size)

    def _arrive(self, request: TraceRequest) -> None:
        request_id, prompt = request.request_id, self._prompt_of(request)
        if self._children[request_id]:
            self._prompts[request_id] = prompt
        self._count_arrival(request_id)
        least = self._seen.insert(request.tenant, prompt, 0, self.now)
        self._tokens_of(request_id).least += least
        num_expected = expected_tokens(request.num_samples, request.max_tokens)
        routed = RoutedRequest(request_id, request.tenant, prompt, num_expected, request_id)
        started = perf_counter()
        route = self._routing.choose(routed)
        self._routing.routed(routed, route.replica_id)
        self._decisions.append(perf_counter() - started)
        self._reasons[route.reason] += 1
        self._where[request_id] = route.replica_id
        replica = self._replicas[route.replica_id]
        self._ledger.arrived(request_id, self.now)
        self._ledger.admitted(request_id, self.now)
        replica.scheduler.add(self._scheduled(request, prompt))
        if replica.step is None:
            self._start(route.replica_id)

    def _count_arrival(self, request_id: str) -> None:
        self._num_arrived += 1
        if 2 * self._num_arrived <= len(self._trace):
            return
        if not self._warm_requests:
            self._busy_before = self._busy()
        self._warm_requests.add(request_id)

    def _tokens_of(self, request_id: str) -> _Tokens:
        return self._warm if request_id in self._warm_requests else self._early

    def _busy(self) -> list[float]:
        return [replica.busy_seconds for replica in self._replicas.values()]

    def _scheduled(self, request: TraceRequest, prompt: Int32Array) -> ScheduledRequest:
        return ScheduledRequest(
            request_id=request.request_id,
            prompt=prompt,
            num_samples=request.num_samples,
            max_tokens=max(request.output_lengths),
            stop_token_ids=self._ledger.stop_token_ids,
            namespace=request.tenant,
            tenant=request.tenant,
            priority=request.priority,
        )

    def _start(self, replica_id: str) -> None:
        replica = self._replicas[replica_id]
        replica.step = replica.scheduler.schedule()
        if replica.step is not None:
            seconds = self._device.step_seconds(replica.step)
            replica.busy_seconds += seconds
            self._push(seconds, "step", replica_id)

    def _complete(self, replica: _Replica) -> None:
        step, replica.step = replica.step, None
        assert step is not None
        tokens = self._ledger.draw(step.draws.samples, self.now)
        for sample in replica.scheduler.complete(step, tokens):
            if self._ledger.finished(sample.request_id, sample.sample_index):
                self._end(replica, sample.request_id)

    def _end(self, replica: _Replica, request_id: str) -> None:
        self.num_ended += 1
        request, usage = self._trace[request_id], replica.scheduler.usage(request_id)
        self._prompt += usage.prompt_tokens
        self._tokens_of(request_id).computed += usage.computed_tokens
        self._ledger.ended(request_id, usage)
        self._routing.completed(request_id)
        for child in self._children[request_id]:
            self._push(self._trace[child].arrival_seconds, "arrival", child)
            drawn = self._ledger.drawn_tokens(request_id, self._trace[child].parent_sample)
            # The last token drawn is never computed.
            computed = np.concatenate([self._prompts[request_id], drawn[:-1]])
            self._seen.insert(request.tenant, computed, 0, self.now)
            self._routing.drew(request.tenant, request_id, computed)

    def _report(self, replica_id: str) -> None:
        replica = self._replicas[replica_id]
        self._routing.report(
            replica_id,
            ReplicaStats(
                epoch="first",
                num_cached_tokens=replica.num_cached_tokens(),
                capacity_tokens=replica.capacity_tokens,
            ),
        )

    def _prompt_of(self, request: TraceRequest) -> Int32Array:
        if request.parent is None:
            return request.own_tokens()
        drawn = self._ledger.drawn_tokens(request.parent, request.parent_sample)
        return np.concatenate([self._prompts[request.parent], drawn, request.own_tokens()])

    def _push(self, after: float, kind: str, name: str) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (self.now + after, self._num_events, kind, name))


def _imbalance(loads: Sequence[float]) -> float:
    """The largest over the mean; 1 where there is no load at all."""
    total = sum(loads)
    return max(loads) * len(loads) / total if total else 1.0
