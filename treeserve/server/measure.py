"""Watches a stream of events and tells the metrics what happened when."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from treeserve.metrics import Metrics, PromptTimings
from treeserve.server.contract import EventStream
from treeserve.types import Delta, Finished, StreamEvent

Clock = Callable[[], float]


async def measured(
    stream: EventStream,
    metrics: Metrics,
    clock: Clock = time.monotonic,
    also: Callable[[Delta | Finished], object] = bool,
) -> AsyncGenerator[StreamEvent, None]:
    """Pass every event on, and count prompts and samples as they end; closes the stream.

    Args:
        stream: The events of one call.
        metrics: Told of them.
        clock: In seconds.
        also: Shown every growth and end as well.
    """
    watch = _Watch(metrics, clock)
    async with aclosing(stream) as events:
        async for event in events:
            if isinstance(event, Delta | Finished):
                watch.see(event)
                also(event)
            yield event


class _Watch:
    """When the prompts and samples of one call began and grew."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._start = clock()
        self._first_tokens: dict[tuple[int, ...], float] = {}
        self._samples: dict[tuple[tuple[int, ...], int], _SampleWatch] = {}

    def see(self, event: Delta | Finished) -> None:
        now = self._clock()
        if isinstance(event, Finished):
            first_token = self._first_tokens.pop(event.path, now) - self._start
            self._metrics.observe_finished(
                event.usage, PromptTimings(first_token, now - self._start)
            )
            return
        self._first_tokens.setdefault(event.path, now)
        self._see_sample(event, now)

    def _see_sample(self, delta: Delta, now: float) -> None:
        key = (delta.path, delta.sample_index)
        sample = self._samples.get(key)
        if sample is None:
            sample = self._samples[key] = _SampleWatch(now)
        else:
            sample.later_tokens += len(delta.token_ids)
        if delta.finish_reason is None:
            return
        del self._samples[key]
        self._metrics.observe_sample(delta.finish_reason)
        if sample.later_tokens:
            self._metrics.observe_token_seconds((now - sample.first_seen) / sample.later_tokens)


class _SampleWatch:
    __slots__ = ("first_seen", "later_tokens")

    def __init__(self, first_seen: float) -> None:
        self.first_seen = first_seen
        self.later_tokens = 0
