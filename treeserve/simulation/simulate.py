"""The simulation: a trace arrives at the real scheduler, and a paper device says how time goes."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from treeserve.config import SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.scheduler.request import PromptUsage, ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Int32Array
from treeserve.simulation.device import PaperDevice
from treeserve.simulation.ledger import Ledger
from treeserve.simulation.result import Result
from treeserve.simulation.trace import TraceRequest

Progress = Callable[[int, float], None]
"""(requests that ended, virtual seconds)"""


def simulate(
    trace: Sequence[TraceRequest],
    device: PaperDevice,
    config: SchedulerConfig,
    *,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Runs the trace to its end and says what its requests saw.

    Args:
        trace: As `read_trace` gives it.
        device: Says how long a step takes, and what the planner is told.
        config: Of the scheduler.
        max_tokens: What every request asks for, or as much as it draws if that is more. 0: exactly
            as much. None: what the trace says.
        progress: Called after each step.

    Raises:
        InvalidRequest: A request that even an empty pool could not serve.
    """
    simulation = _Simulation(trace, device, config, max_tokens)
    while simulation.advance():
        if progress is not None:
            progress(simulation.num_ended, simulation.now)
    return simulation.ledger.result(config)


class _Simulation:
    """Arrivals are delivered at their own time, also in the middle of a step."""

    def __init__(
        self,
        trace: Sequence[TraceRequest],
        device: PaperDevice,
        config: SchedulerConfig,
        max_tokens: int | None,
    ) -> None:
        self.now = 0.0
        self.num_ended = 0
        self._device = device
        self._scheduler = Scheduler(config, device.cost_model(), lambda: self.now)
        self._max_tokens = max_tokens
        self._trace = {request.request_id: request for request in trace}
        self._children: dict[str, list[str]] = defaultdict(list)
        self._waiting: set[str] = set()
        self._prompts: dict[str, Int32Array] = {}
        self._arrivals: list[tuple[float, int, str]] = []
        self._order = {request_id: index for index, request_id in enumerate(self._trace)}
        for request in trace:
            if request.parent is None:
                self._push(request, 0.0)
            else:
                self._children[request.parent].append(request.request_id)
        self.ledger = Ledger(trace, {r.request_id: self._asked_tokens(r) for r in trace})

    def advance(self) -> bool:
        """One step, or the wait for the next arrival; False when all is done."""
        self._deliver(self.now)
        started = perf_counter()
        step = self._scheduler.schedule()
        host_seconds = perf_counter() - started
        for request_id in self._scheduler.take_expired():
            self.num_ended += 1
            self.ledger.expired(request_id)
        counts = self._scheduler.counts()
        self._note_admissions(counts.waiting_requests)
        if step is None:
            return self._wait()
        seconds = self._device.step_seconds(step)
        self.ledger.ran(step, seconds, counts)
        end = self.now + seconds
        self._deliver(end)
        self.now = end
        tokens = self.ledger.draw(step.draws.samples, self.now)
        started = perf_counter()
        finished = self._scheduler.complete(step, tokens)
        host_seconds += perf_counter() - started
        self.ledger.host(host_seconds, counts.tally.plan_seconds)
        for sample in finished:
            if self.ledger.finished(sample.request_id, sample.sample_index):
                self._end(sample.request_id, self._scheduler.usage(sample.request_id))
        return True

    def _note_admissions(self, num_waiting: int) -> None:
        if len(self._waiting) == num_waiting:
            return
        for request_id in [i for i in self._waiting if not self._scheduler.is_waiting(i)]:
            self._waiting.remove(request_id)
            self.ledger.admitted(request_id, self.now)

    def _wait(self) -> bool:
        """Nothing can run now."""
        if not self._arrivals:
            assert not self._scheduler.has_work(), "requests wait, and nothing runs"
            return False
        self.now = max(self.now, self._arrivals[0][0])
        return True

    def _deliver(self, until: float) -> None:
        while self._arrivals and self._arrivals[0][0] <= until:
            arrival, _, request_id = heapq.heappop(self._arrivals)
            self.now = max(self.now, arrival)
            self._add(self._trace[request_id], arrival)

    def _add(self, request: TraceRequest, arrival: float) -> None:
        prompt = self._prompt(request)
        if self._children[request.request_id]:
            self._prompts[request.request_id] = prompt
        self.ledger.arrived(request.request_id, arrival)
        self._waiting.add(request.request_id)
        seconds = request.deadline_seconds
        deadline = None if seconds is None else arrival + seconds
        try:
            self._scheduler.add(
                ScheduledRequest(
                    request_id=request.request_id,
                    prompt=prompt,
                    num_samples=request.num_samples,
                    max_tokens=self._asked_tokens(request),
                    stop_token_ids=self.ledger.stop_token_ids,
                    namespace=request.tenant,
                    tenant=request.tenant,
                    priority=request.priority,
                    deadline=deadline,
                )
            )
        except InvalidRequest as error:
            raise InvalidRequest(f"request {request.request_id}", str(error)) from error

    def _prompt(self, request: TraceRequest) -> Int32Array:
        if request.parent is None:
            return request.own_tokens()
        drawn = self.ledger.drawn_tokens(request.parent, request.parent_sample)
        return np.concatenate([self._prompts[request.parent], drawn, request.own_tokens()])

    def _asked_tokens(self, request: TraceRequest) -> int:
        asked = request.max_tokens if self._max_tokens is None else self._max_tokens
        return max(asked, *request.output_lengths)

    def _end(self, request_id: str, usage: PromptUsage) -> None:
        self.num_ended += 1
        self.ledger.ended(request_id, usage)
        for child in self._children[request_id]:
            self._push(self._trace[child], self.now)

    def _push(self, request: TraceRequest, after: float) -> None:
        arrival = after + request.arrival_seconds
        heapq.heappush(
            self._arrivals, (arrival, self._order[request.request_id], request.request_id)
        )
