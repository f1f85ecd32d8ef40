"""The exact engine of a simulated cluster: the real scheduler, step by step."""

import math
from collections.abc import Sequence
from dataclasses import replace

from treeserve.config import SchedulerConfig
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Step
from treeserve.simulation.device import PaperDevice
from treeserve.simulation.engine import Arrival, Done, Ended
from treeserve.simulation.ledger import Ledger


class ScheduledEngine:
    """What `treeserve serve` would do, with a paper device."""

    def __init__(self, device: PaperDevice, config: SchedulerConfig, ledger: Ledger) -> None:
        self.due = math.inf
        self._done = Done()
        self._now = 0.0
        self._device = device
        self._page_size = config.page_size
        self._ledger = ledger
        self._scheduler = Scheduler(config, device.cost_model(), lambda: self._now)
        self._step: Step | None = None
        self._step_seconds = 0.0

    @property
    def num_cached_tokens(self) -> int:
        """With those of running requests."""
        return self._scheduler.counts().used_pages * self._page_size

    def done_until(self, now: float) -> Done:
        """In the steps that have ended."""
        return replace(self._done)

    def add(self, arrival: Arrival, now: float) -> None:
        """Starts a step, unless one runs."""
        request = arrival.request
        self._now = now
        self._scheduler.add(
            ScheduledRequest(
                request_id=request.request_id,
                prompt=arrival.prompt,
                num_samples=request.num_samples,
                max_tokens=max(request.output_lengths),
                stop_token_ids=self._ledger.stop_token_ids,
                namespace=request.tenant,
                tenant=request.tenant,
                priority=request.priority,
            )
        )
        if self._step is None:
            self._start()

    def advance(self) -> Sequence[Ended]:
        """Ends the step that is due, and starts the next one."""
        step = self._step
        assert step is not None
        self._now = self.due
        self._done.add(step.num_rows, len(step.draws), self._step_seconds)
        tokens = self._ledger.draw(step.draws.samples, self._now)
        ended = [
            Ended(sample.request_id, self._scheduler.usage(sample.request_id))
            for sample in self._scheduler.complete(step, tokens)
            if self._ledger.finished(sample.request_id, sample.sample_index)
        ]
        self._start()
        return ended

    def _start(self) -> None:
        step = self._step = self._scheduler.schedule()
        if step is None:
            self.due = math.inf
            return
        self._step_seconds = self._device.step_seconds(step)
        self.due = self._now + self._step_seconds
