"""The lean engine of a simulated cluster: steps that are alike are taken as one."""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from treeserve.config import SchedulerConfig
from treeserve.scheduler.request import PromptUsage
from treeserve.simulation.device import PaperDevice
from treeserve.simulation.engine import Arrival, Done, Ended
from treeserve.simulation.lean_cache import LeanCache
from treeserve.simulation.ledger import Ledger
from treeserve.simulation.runs import drawn_run


@dataclass(slots=True, eq=False)
class _Job:
    """A request."""

    arrival: Arrival
    num_prompt: int
    num_left: int = 0
    """Tokens of the prompt that are still to be computed."""
    num_computed: int = 0


@dataclass(slots=True)
class _Streams:
    """Samples that decode: entry (last step, order, job, sample, time of the first token)."""

    ends: list[tuple[int, int, _Job, int, float]] = field(default_factory=list)
    sum_first_steps: int = 0
    sum_prompts: int = 0
    """Of each sample its prompt's tokens."""

    def num_drawn(self, step: int) -> int:
        """Tokens that all of them have drawn before that step."""
        return len(self.ends) * step - self.sum_first_steps


class LeanEngine:
    """A continuous batcher in the order of arrival, many times faster than the real scheduler.

    Every step each sample draws a token, and prompts are computed with what the token budget
    leaves. Between two events nothing but lengths changes, so that the steps between them are one:
    an event is an arrival, a prompt that is computed, or a sample that ends. Nobody is preempted: a
    request is admitted when a place is free and there is room for all of it. `ScheduledEngine` is
    the measure.
    """

    def __init__(self, device: PaperDevice, config: SchedulerConfig, ledger: Ledger) -> None:
        self.due = math.inf
        self._done = Done()
        self._device = device
        self._ledger = ledger
        self._token_budget = config.token_budget
        self._max_running = config.max_running
        self._capacity = config.num_pages * config.page_size
        self._cache = LeanCache(self._capacity)
        self._waiting: deque[_Job] = deque()
        self._computing: deque[_Job] = deque()
        self._computed: list[_Job] = []
        """In the steps that run."""
        self._streams = _Streams()
        self._ready: deque[tuple[_Job, int]] = deque()
        """Samples whose prompt is computed, and that wait for a place."""
        self._num_open = self._num_reserved = self._num_begun = 0
        self._step = 0
        self._started_at = self._step_seconds = 0.0
        self._num_steps = self._num_rows = 0

    @property
    def num_cached_tokens(self) -> int:
        """With those of running requests."""
        return self._cache.num_tokens + self._streams.num_drawn(self._step)

    def done_until(self, now: float) -> Done:
        """In the steps that have ended by now, also of those that were taken as one."""
        done = replace(self._done)
        if self._num_steps:
            num_ended = int((now - self._started_at) / self._step_seconds)
            self._count(done, min(num_ended, self._num_steps))
        return done

    def add(self, arrival: Arrival, now: float) -> None:
        """It joins at the end of the step that runs."""
        self._waiting.append(_Job(arrival, len(arrival.prompt)))
        if not self._num_steps:
            self._start(now)
        elif self._num_steps > 1 and self._fits(self._waiting[0]):
            num_begun = math.ceil((now - self._started_at) / self._step_seconds)
            self._num_steps = min(self._num_steps, max(1, num_begun))
            self.due = self._started_at + self._num_steps * self._step_seconds

    def advance(self) -> Sequence[Ended]:
        """Ends the steps that are due, and starts the next ones."""
        now, num_steps = self.due, self._num_steps
        self._count(self._done, num_steps)
        self._step += num_steps
        ended = self._finish(now)
        for job in self._computed:
            self._ready += ((job, index) for index in range(job.arrival.request.num_samples))
        self._computed.clear()
        self._decode(now)
        ended += self._finish(now)
        self._cache.evict(self._streams.num_drawn(self._step))
        self._start(now)
        return ended

    def _count(self, done: Done, num_steps: int) -> None:
        num_streams, seconds = len(self._streams.ends), num_steps * self._step_seconds
        done.add(num_steps * self._num_rows, num_streams, seconds)

    def _start(self, now: float) -> None:
        self._admit()
        num_streams = len(self._streams.ends)
        num_prompt = self._compute(max(0, self._token_budget - num_streams))
        self._num_rows = num_streams + num_prompt
        self._started_at = now
        if not self._num_rows:
            self._num_steps, self.due = 0, math.inf
            return
        self._num_steps = 1 if num_prompt else self._streams.ends[0][0] - self._step
        self._step_seconds = self._seconds(num_prompt)
        self.due = now + self._num_steps * self._step_seconds

    def _seconds(self, num_prompt: int) -> float:
        """Of each of the steps; of many it is the middle one's."""
        streams = self._streams
        num_streams = len(streams.ends)
        num_drawn = streams.num_drawn(self._step) + num_streams * self._num_steps / 2
        jobs = [*self._computing, *self._computed] if num_prompt else []
        num_seen = streams.sum_prompts + num_drawn
        num_seen += num_prompt * max((job.num_prompt for job in jobs), default=0)
        return self._device.seconds(
            num_rows=self._num_rows,
            num_seen=num_seen,
            tokens_read=self._cache.num_pinned_tokens + num_drawn,
            num_states=2 * self._num_rows,
            num_items=num_streams + len(jobs),
        )

    def _fits(self, job: _Job) -> bool:
        if not self._num_open:
            return True
        wanted = self._cache.num_missing(job.arrival.runs) + sum(job.arrival.request.output_lengths)
        pinned = self._cache.num_pinned_tokens + self._num_reserved
        return self._num_open < self._max_running and pinned + wanted <= self._capacity

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            job = self._waiting.popleft()
            request, runs = job.arrival.request, job.arrival.runs
            job.num_computed = job.num_left = max(1, self._cache.num_missing(runs))
            self._num_open += request.num_samples
            self._num_reserved += sum(request.output_lengths)
            self._cache.pin(runs)
            self._computing.append(job)

    def _compute(self, budget: int) -> int:
        """Gives the step's budget to prompts; returns how many tokens of them it will compute."""
        left = budget
        while self._computing and left:
            job = self._computing[0]
            num_tokens = min(left, job.num_left)
            job.num_left -= num_tokens
            left -= num_tokens
            if not job.num_left:
                self._computed.append(self._computing.popleft())
        return budget - left

    def _decode(self, now: float) -> None:
        """Where places are free, samples have drawn their first token."""
        streams = self._streams
        while self._ready and len(streams.ends) < self._max_running:
            job, index = self._ready.popleft()
            self._num_begun += 1
            last = self._step + job.arrival.request.output_lengths[index] - 1
            heapq.heappush(streams.ends, (last, self._num_begun, job, index, now))
            streams.sum_first_steps += self._step - 1
            streams.sum_prompts += job.num_prompt

    def _finish(self, now: float) -> list[Ended]:
        ended = []
        while self._streams.ends and self._streams.ends[0][0] <= self._step:
            _, _, job, index, first_at = heapq.heappop(self._streams.ends)
            request, runs = job.arrival.request, job.arrival.runs
            length = request.output_lengths[index]
            self._streams.sum_first_steps -= self._step - length
            self._streams.sum_prompts -= job.num_prompt
            self._num_open -= 1
            self._num_reserved -= length
            self._cache.hold(drawn_run(runs[-1].key, job.arrival.number, index, length))
            self._ledger.drew_all(request.request_id, index, first_at, now)
            if self._ledger.finished(request.request_id, index):
                self._cache.unpin(runs)
                cached = job.num_prompt - job.num_computed
                usage = PromptUsage(job.num_prompt, cached, 0, job.num_computed)
                ended.append(Ended(request.request_id, usage))
        return ended
