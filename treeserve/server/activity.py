"""What goes on at the service: the calls that run, and what those that ended were told."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from treeserve.server.call_log import CallRecord
from treeserve.types import Delta, Finished, SampleTimings

_MAX_TIMINGS = 4096
"""Of samples that ended since they were last taken; of more, the latest."""


class Activity:
    """Belongs to one event loop; counters only grow."""

    def __init__(self) -> None:
        self._running: dict[int, CallRecord] = {}
        self._timings: deque[SampleTimings] = deque(maxlen=_MAX_TIMINGS)
        self.cached_tokens = 0
        """Of prompts that ended: computed before they came."""
        self.shared_tokens = 0
        """Computed by another request while they were in flight."""
        self.computed_tokens = 0
        """Computed for them."""

    @contextmanager
    def run(self, record: CallRecord) -> Iterator[None]:
        """While a call runs."""
        self._running[id(record)] = record
        try:
            yield
        finally:
            del self._running[id(record)]

    def see(self, event: Delta | Finished) -> None:
        """Take in what a stream brought."""
        if isinstance(event, Finished):
            usage = event.usage
            self.cached_tokens += usage.cached_tokens
            self.shared_tokens += usage.shared_tokens
            self.computed_tokens += usage.computed_tokens
        elif event.timings is not None:
            self._timings.append(event.timings)

    def running(self, tenant: str | None) -> list[CallRecord]:
        """The calls of a tenant, or, with None, everybody's; the oldest first."""
        return [
            record
            for record in self._running.values()
            if tenant is None or record.identity.tenant == tenant
        ]

    def take_timings(self) -> list[SampleTimings]:
        """Of the samples that ended since this was last asked."""
        taken = list(self._timings)
        self._timings.clear()
        return taken
