"""Watches a stream of events and tells the metrics what happened when."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from treeserve.metrics import Metrics, RequestTimings
from treeserve.server.contract import EventStream
from treeserve.types import Delta, Finished, StreamEvent

Clock = Callable[[], float]


async def measured(
    stream: EventStream,
    metrics: Metrics,
    clock: Clock = time.monotonic,
    also: Callable[[Delta | Finished], object] = bool,
    tenant: str = "",
) -> AsyncGenerator[StreamEvent, None]:
    """Pass every event on, and count prompts and samples as they end; closes the stream.

    Args:
        stream: The events of one call.
        metrics: Told of them.
        clock: In seconds.
        also: Shown every growth and end as well.
        tenant: Whose call it is.
    """
    watch = _Watch(metrics, clock, tenant)
    async with aclosing(stream) as events:
        async for event in events:
            if isinstance(event, Delta | Finished):
                watch.see(event)
                also(event)
            yield event


class _Watch:
    """When the prompts and samples of one call began and grew."""

    def __init__(self, metrics: Metrics, clock: Clock, tenant: str) -> None:
        self._metrics = metrics
        self._clock = clock
        self._tenant = tenant
        self._start = clock()
        self._requests: dict[tuple[int, ...], _RequestWatch] = {}
        self._samples: dict[tuple[tuple[int, ...], int], _SampleWatch] = {}

    def see(self, event: Delta | Finished) -> None:
        now = self._clock()
        if isinstance(event, Finished):
            self._see_finished(event, now)
            return
        request = self._requests.get(event.path)
        if request is None:
            request = self._requests[event.path] = _RequestWatch(now)
        self._see_sample(event, request, now)

    def _see_finished(self, event: Finished, now: float) -> None:
        request = self._requests.pop(event.path, None) or _RequestWatch(now)
        timings = RequestTimings(
            request.first_token - self._start, now - self._start, request.queue_seconds
        )
        self._metrics.observe_finished(event.usage, timings, request.num_samples, self._tenant)

    def _see_sample(self, delta: Delta, request: "_RequestWatch", now: float) -> None:
        key = (delta.path, delta.sample_index)
        sample = self._samples.get(key)
        if sample is None:
            sample = self._samples[key] = _SampleWatch(now)
        else:
            sample.num_later += len(delta.token_ids)
        sample.num_tokens += len(delta.token_ids)
        if delta.finish_reason is None:
            return
        del self._samples[key]
        request.num_samples += 1
        if delta.timings is not None:
            request.queue_seconds = delta.timings.queue_seconds
        self._metrics.observe_sample(
            delta.finish_reason, sample.num_tokens, delta.timings, self._tenant
        )
        if sample.num_later:
            self._metrics.observe_token_seconds((now - sample.first_seen) / sample.num_later)


@dataclass(slots=True)
class _RequestWatch:
    first_token: float
    queue_seconds: float | None = None
    num_samples: int = 0
    """That have ended."""


@dataclass(slots=True)
class _SampleWatch:
    first_seen: float
    num_later: int = 0
    """Tokens after those that came first."""
    num_tokens: int = 0
