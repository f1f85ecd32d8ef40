"""Watches the engine's steps from outside: its pace, whether they go on, and who left the queue."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from treeserve.server.step_totals import StepTotals
from treeserve.types import StepNumbers

_FORGETTING = 0.98
"""Weight of a step against the next one: about the last fifty steps count."""


@dataclass(slots=True)
class QueueTime:
    """How long a request waited in the engine's queue, as seen after each step."""

    has_waited: bool = False
    """A step has ended without it; else the first step that could take it in did."""
    left: float | None = None
    """When the step had ended that took it in, if it has waited; on the watch's clock."""


class EngineWatch:
    """Told of every step in the engine's thread; asked from any.

    Args:
        clock: In seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.totals = StepTotals()
        self._rows = 0.0
        self._seconds = 0.0
        self._num_streams = 0
        self._last_sign = clock()
        """When there was a step, or began to be work."""
        self._lock = threading.Lock()
        self._queued: dict[str, QueueTime] = {}

    @property
    def tokens_per_second(self) -> float:
        """Rows of recent steps over the time they took; 0 before the first one."""
        return self._rows / self._seconds if self._seconds > 0 else 0.0

    def observe(
        self, numbers: StepNumbers, is_waiting: Callable[[str], bool] = lambda request_id: False
    ) -> None:
        """Take in a step; one without rows only says that the engine lives.

        Args:
            numbers: Of the step.
            is_waiting: Whether a request, by its id, is in the engine's queue now.
        """
        self._last_sign = self._clock()
        self._look_at_queue(is_waiting)
        self.totals.add(numbers)
        if numbers.num_rows == 0:
            return
        seconds = numbers.schedule_seconds + numbers.model_seconds
        self._rows = _FORGETTING * self._rows + numbers.num_rows
        self._seconds = _FORGETTING * self._seconds + seconds

    @contextmanager
    def work(self, request_id: str = "") -> Iterator[QueueTime]:
        """As long as the engine has something to do for a stream; in one event loop.

        Args:
            request_id: Of the stream's first prompt, whose time in the queue is looked at.
        """
        queue_time = QueueTime()
        with self._lock:
            self._queued[request_id] = queue_time
        if self._num_streams == 0:
            self._last_sign = self._clock()
        self._num_streams += 1
        try:
            yield queue_time
        finally:
            self._num_streams -= 1
            self.has_drawn(request_id)

    def has_drawn(self, request_id: str) -> None:
        """Look at its queue no more."""
        with self._lock:
            self._queued.pop(request_id, None)

    def _look_at_queue(self, is_waiting: Callable[[str], bool]) -> None:
        with self._lock:
            for request_id, queue_time in list(self._queued.items()):
                if is_waiting(request_id):
                    queue_time.has_waited = True
                elif queue_time.has_waited:
                    queue_time.left = self._clock()
                    del self._queued[request_id]

    def stalled_seconds(self) -> float:
        """How long there has been work and no step."""
        return self._clock() - self._last_sign if self._num_streams else 0.0
