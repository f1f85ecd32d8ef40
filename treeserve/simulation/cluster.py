"""A cluster on paper: one trace, many engines, and the real router before them."""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Literal, Protocol, TypeAlias

import numpy as np

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.router import (
    ReplicaStats,
    Route,
    RoutedRequest,
    Router,
    expected_tokens,
)
from treeserve.config import SchedulerConfig
from treeserve.scheduler.step import Int32Array
from treeserve.simulation.cluster_result import ClusterResult, LoadWindow, PromptTokens
from treeserve.simulation.device import PaperDevice
from treeserve.simulation.engine import Arrival, Done, Ended, Engine
from treeserve.simulation.lean_engine import LeanEngine
from treeserve.simulation.ledger import Ledger
from treeserve.simulation.result import Distribution
from treeserve.simulation.runs import Run, block_runs, drawn_run, last_drawn_run, root_key
from treeserve.simulation.scheduled_engine import ScheduledEngine
from treeserve.simulation.trace import TraceRequest

EngineKind: TypeAlias = Literal["scheduler", "lean"]
"""scheduler: the real one, step by step; lean: one that is many times faster and almost alike."""
_ENGINES: dict[EngineKind, type[ScheduledEngine] | type[LeanEngine]] = {
    "scheduler": ScheduledEngine,
    "lean": LeanEngine,
}
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


Progress = Callable[[int, float], None]
"""(requests that ended, virtual seconds)"""


def simulate_cluster(
    trace: Sequence[TraceRequest],
    num_replicas: int,
    device: PaperDevice,
    config: SchedulerConfig,
    routing: Routing | None = None,
    progress: Progress | None = None,
    engines: EngineKind = "scheduler",
) -> ClusterResult:
    """Runs the trace to its end.

    Args:
        trace: Without deadlines.
        num_replicas: Named "0", "1" and so on.
        device: Of each.
        config: Of each replica's scheduler.
        routing: None: the router with its default options.
        progress: Called after each event.
        engines: What each replica is.
    """
    ids = replica_ids(num_replicas)
    if routing is None:
        router = Router(RouterConfig())
        router.update_replicas(ids)
        routing = router
    simulation = _Cluster(trace, ids, device, config, routing, engines)
    while simulation.advance():
        if progress is not None:
            progress(simulation.num_ended, simulation.now)
    return simulation.result()


def replica_ids(num_replicas: int) -> list[str]:
    """As the simulation names them."""
    return [str(index) for index in range(num_replicas)]


class _Cluster:
    """Events in the order of their times: arrivals, engines that are due, reports, and marks."""

    def __init__(
        self,
        trace: Sequence[TraceRequest],
        ids: Sequence[str],
        device: PaperDevice,
        config: SchedulerConfig,
        routing: Routing,
        engines: EngineKind,
    ) -> None:
        self.now = 0.0
        self.num_ended = 0
        self._prompts = _Prompts(trace)
        self._trace = {request.request_id: request for request in trace}
        self._routing = routing
        self._ledger = Ledger(trace, {r.request_id: max(r.output_lengths) for r in trace})
        self._config = config
        self._capacity_tokens = config.num_pages * config.page_size
        self._engines: dict[str, Engine] = {
            i: _ENGINES[engines](device, config, self._ledger) for i in ids
        }
        self._events: list[tuple[float, int, str, str]] = []
        self._num_events = 0
        self._decisions: list[float] = []
        self._reasons: Counter[str] = Counter()
        self._prompt_tokens = 0
        self._early, self._later = PromptTokens(), PromptTokens()
        self._later_requests: set[str] = set()
        self._marks: list[list[Done]] = [self._done()]
        roots = [request for request in trace if request.parent is None]
        self._arrival_seconds = max(request.arrival_seconds for request in roots)
        for request in roots:
            self._push(request.arrival_seconds, "arrival", request.request_id)
        for part in (0.5, 1.0):
            self._push(part * self._arrival_seconds, "mark", "")
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
            self._push(self.now + _STATS_SECONDS, "report", name)
        elif kind == "mark":
            self._marks.append(self._done())
        elif self._engines[name].due == self.now:
            # Else it has said since then that it will be due at another time.
            for ended in self._engines[name].advance():
                self._end(ended)
            self._push_due(name)
        return True

    def result(self) -> ClusterResult:
        whole = self._ledger.result(self._config)
        held = self._routing.held if isinstance(self._routing, Router) else None
        first, middle, last = self._marks
        seconds = self._arrival_seconds
        return ClusterResult(
            num_replicas=len(self._engines),
            num_requests=len(self._trace),
            arrival_seconds=seconds,
            makespan_seconds=whole.makespan_seconds,
            prompt_tokens=self._prompt_tokens,
            computed_tokens=self._early.computed + self._later.computed,
            least_tokens=self._early.least + self._later.least,
            later_computed_tokens=self._later.computed,
            later_least_tokens=self._later.least,
            output_tokens=whole.output_tokens,
            load=LoadWindow.between(first, last, seconds),
            later_load=LoadWindow.between(middle, last, seconds / 2),
            time_to_first_token=whole.time_to_first_token,
            time_per_output_token=whole.time_per_output_token,
            decision_ms=Distribution.of([seconds * 1e3 for seconds in self._decisions]),
            reasons=dict(self._reasons),
            num_nodes=held.num_nodes if held else 0,
            num_tree_tokens=held.num_tokens if held else 0,
        )

    def _arrive(self, request: TraceRequest) -> None:
        request_id = request.request_id
        arrival = self._prompts.arrive(request, self._ledger)
        if len(self._marks) > 1:
            self._later_requests.add(request_id)
        self._tokens_of(request_id).least += self._prompts.see(arrival.runs)
        num_expected = expected_tokens(request.num_samples, request.max_tokens)
        routed = RoutedRequest(request_id, request.tenant, arrival.prompt, num_expected, request_id)
        started = perf_counter()
        route = self._routing.choose(routed)
        self._routing.routed(routed, route.replica_id)
        self._decisions.append(perf_counter() - started)
        self._reasons[route.reason] += 1
        self._ledger.arrived(request_id, self.now)
        self._ledger.admitted(request_id, self.now)
        engine = self._engines[route.replica_id]
        before = engine.due
        engine.add(arrival, self.now)
        if engine.due != before:
            self._push_due(route.replica_id)

    def _tokens_of(self, request_id: str) -> PromptTokens:
        return self._later if request_id in self._later_requests else self._early

    def _done(self) -> list[Done]:
        return [engine.done_until(self.now) for engine in self._engines.values()]

    def _end(self, ended: Ended) -> None:
        self.num_ended += 1
        request = self._trace[ended.request_id]
        self._prompt_tokens += ended.usage.prompt_tokens
        self._tokens_of(request.request_id).computed += ended.usage.computed_tokens
        self._ledger.ended(request.request_id, ended.usage)
        self._routing.completed(request.request_id)
        for child in self._prompts.continue_with(request):
            self._push(self.now + child.arrival_seconds, "arrival", child.request_id)
            tokens = self._prompts.computed_tokens(request, child.parent_sample, self._ledger)
            self._routing.drew(request.tenant, request.request_id, tokens)

    def _report(self, replica_id: str) -> None:
        self._routing.report(
            replica_id,
            ReplicaStats(
                epoch="first",
                num_cached_tokens=self._engines[replica_id].num_cached_tokens,
                capacity_tokens=self._capacity_tokens,
            ),
        )

    def _push_due(self, name: str) -> None:
        due = self._engines[name].due
        if due < math.inf:
            self._push(due, "due", name)

    def _push(self, at: float, kind: str, name: str) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (at, self._num_events, kind, name))


class _Prompts:
    """Prompts of requests that others will continue, and everything that was ever computed."""

    def __init__(self, trace: Sequence[TraceRequest]) -> None:
        self._numbers = {request.request_id: index for index, request in enumerate(trace)}
        self._children: dict[str, list[TraceRequest]] = defaultdict(list)
        self._num_to_come: Counter[str] = Counter()
        self._kept: dict[str, Arrival] = {}
        self._seen: set[int] = set()
        for request in trace:
            if request.parent is not None:
                self._children[request.parent].append(request)
                self._num_to_come[request.parent] += 1

    def arrive(self, request: TraceRequest, ledger: Ledger) -> Arrival:
        """Its prompt, which is kept for those that continue it."""
        tokens = request.own_tokens()
        runs: list[Run] = []
        key = root_key(request.tenant)
        if request.parent is not None:
            above = self._kept[request.parent]
            drawn = ledger.drawn_tokens(request.parent, request.parent_sample)
            tokens = np.concatenate([above.prompt, drawn, tokens])
            computed = self._drawn(above, request.parent_sample)
            runs = [*above.runs, computed, last_drawn_run(computed)]
            key = runs[-1].key
            self._num_to_come[request.parent] -= 1
            if not self._num_to_come[request.parent]:
                del self._kept[request.parent]
        runs += block_runs(request, key)
        arrival = Arrival(request, self._numbers[request.request_id], tokens, runs)
        if request.request_id in self._children:
            self._kept[request.request_id] = arrival
        return arrival

    def see(self, runs: Sequence[Run]) -> int:
        """How many of these tokens nobody has computed yet; from now on they are."""
        new = [run for run in runs if run.key not in self._seen]
        self._seen.update(run.key for run in new)
        return sum(run.num_tokens for run in new)

    def continue_with(self, request: TraceRequest) -> Sequence[TraceRequest]:
        """Who continues a request that has ended, with what its samples drew."""
        children = self._children.get(request.request_id, ())
        for child in children:
            drawn = self._drawn(self._kept[request.request_id], child.parent_sample)
            self._seen.add(drawn.key)
        return children

    def computed_tokens(
        self, request: TraceRequest, sample_index: int, ledger: Ledger
    ) -> Int32Array:
        """Of a request that has ended its prompt and what a sample drew, but for its last token."""
        drawn = ledger.drawn_tokens(request.request_id, sample_index)
        return np.concatenate([self._kept[request.request_id].prompt, drawn[:-1]])

    def _drawn(self, above: Arrival, sample_index: int) -> Run:
        num_tokens = above.request.output_lengths[sample_index]
        return drawn_run(above.runs[-1].key, above.number, sample_index, num_tokens)
