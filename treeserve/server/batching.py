"""Gathers a stream's events, so that one message carries all that a step of the engine brought."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate

from treeserve.server.config import DEFAULT_MAX_BUFFERED_BYTES
from treeserve.server.contract import EventStream
from treeserve.server.refusals import ReaderTooSlow
from treeserve.types import (
    Delta,
    Finished,
    FinishReason,
    Progress,
    PromptLogprobs,
    Started,
    StreamEvent,
    TokenLogprob,
    TreeFinished,
    Usage,
)

MAX_DELTAS = 1024
MAX_MESSAGE_BYTES = 1 << 20
"""Both of one batch, about; they keep messages well below the 4 MiB that gRPC clients take by
default. A single event may be larger."""


@dataclass(slots=True)
class PromptEvents:
    """What is new of one prompt."""

    path: tuple[int, ...]
    deltas: list[Delta] = field(default_factory=list)
    usage: Usage | None = None
    """Set when all its samples have ended."""
    started: Started | None = None
    """Set when nothing has been told of it before."""
    progress: Progress | None = None
    """The last."""
    tree_usage: Usage | None = None
    """Set when all samples of the tree have ended; beside any path."""
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the prompt's next tokens; before the deltas."""

    def add(self, event: StreamEvent) -> None:
        match event:
            case Delta():
                self.deltas.append(event)
            case PromptLogprobs():
                self.prompt_logprobs += event.logprobs
            case Finished():
                self.usage = event.usage
            case Started():
                self.started = event
            case Progress():
                self.progress = event
            case TreeFinished():
                self.tree_usage = event.usage


@asynccontextmanager
async def batched(
    stream: EventStream,
    max_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
    first: StreamEvent | None = None,
    hold_seconds: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[AsyncGenerator[list[PromptEvents], None]]:
    """All events that have come since the last batch was taken; closes the stream at its end.

    A message costs far more than what is in it: with hundreds of samples, one message for each
    token would take longer than the step that drew them.

    The stream is read as fast as it comes, so that a slow reader holds nobody up. When more than
    `max_bytes` wait for it, the stream is closed at once, wherever the reader is stuck in the body
    of the `async with`.

    Args:
        stream: The events.
        max_bytes: About.
        first: An event that was taken from the stream before.
        hold_seconds: Asked after each batch: how long the next one is held back, so that it carries
            more. Nothing is before anything has been drawn, nor the last batch: it comes as soon
            as the stream ends.

    Raises:
        ReaderTooSlow: Then.
    """
    task = asyncio.current_task()
    assert task is not None
    buffer = _Buffer(max_bytes, task)
    if first is not None:
        buffer.push(first)
    reading = asyncio.create_task(_read(stream, buffer))
    try:
        async with aclosing(_batches(buffer, reading, hold_seconds)) as batches:
            yield batches
    except asyncio.CancelledError:
        if not buffer.overflowed or task.uncancel() > 0:
            raise
        raise ReaderTooSlow(
            f"the reader is too slow: more than {max_bytes} bytes wait for it"
        ) from None
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def group(events: Iterable[StreamEvent]) -> list[PromptEvents]:
    """Events by prompt, prompts in the order of their first event."""
    prompts: dict[tuple[int, ...], PromptEvents] = {}
    for event in events:
        path = () if isinstance(event, TreeFinished) else event.path
        prompt = prompts.get(path)
        if prompt is None:
            prompt = prompts[path] = PromptEvents(path)
        prompt.add(event)
    return list(prompts.values())


def ends_late(events: PromptEvents) -> bool:
    """Whether the deadline of the call ended a sample."""
    return any(delta.finish_reason is FinishReason.DEADLINE for delta in events.deltas)


class _Buffer:
    """Events that the reader has not taken, and about how many bytes they are."""

    def __init__(self, max_bytes: int, reader: "asyncio.Task[object]") -> None:
        self.news = asyncio.Event()
        self.overflowed = False
        self._max_bytes = max_bytes
        self._reader = reader
        self._events: list[StreamEvent] = []
        self._num_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._events)

    def push(self, event: StreamEvent) -> bool:
        """Whether there was room; else the reader is interrupted, once."""
        if self.overflowed:
            return False
        self._events.append(event)
        self._num_bytes += _bytes_of(event)
        self.news.set()
        # One event alone, however large, is not a reader's delay: it may echo a whole prompt.
        if self._num_bytes <= self._max_bytes or len(self._events) == 1:
            return True
        self.overflowed = True
        self._events.clear()
        self._reader.cancel()
        return False

    def take(self) -> list[StreamEvent]:
        """The oldest events, as many as one message may carry."""
        if len(self._events) <= MAX_DELTAS and self._num_bytes <= MAX_MESSAGE_BYTES:
            taken, self._events = self._events, []
            self._num_bytes = 0
            return taken
        ends = accumulate(map(_bytes_of, self._events[:MAX_DELTAS]))
        num_taken = max(1, sum(end <= MAX_MESSAGE_BYTES for end in ends))
        taken = self._events[:num_taken]
        del self._events[:num_taken]
        self._num_bytes -= sum(map(_bytes_of, taken))
        return taken


def _bytes_of(event: StreamEvent) -> int:
    """About as many as in a message."""
    if isinstance(event, Started):
        echo = event.echo
        return 64 + (0 if echo is None else len(echo.text) + 4 * len(echo.token_ids))
    if isinstance(event, PromptLogprobs):
        return _logprob_bytes(event.logprobs)
    if not isinstance(event, Delta):
        return 32
    num_bytes = 16 + len(event.text) + 4 * len(event.token_ids)
    return num_bytes + _logprob_bytes(event.logprobs or ())


def _logprob_bytes(logprobs: Iterable[TokenLogprob]) -> int:
    return 16 * sum(1 + len(entry.top) for entry in logprobs)


async def _batches(
    buffer: _Buffer, reading: "asyncio.Task[None]", hold_seconds: Callable[[], float]
) -> AsyncGenerator[list[PromptEvents], None]:
    while not (reading.done() and not buffer):
        await buffer.news.wait()
        buffer.news.clear()
        has_drawn = False
        while buffer:
            batch = group(buffer.take())
            has_drawn = has_drawn or any(prompt.deltas for prompt in batch)
            yield batch
        seconds = hold_seconds() if has_drawn and not reading.done() else 0.0
        if seconds > 0:
            await asyncio.wait([reading], timeout=seconds)
    reading.result()


async def _read(stream: EventStream, buffer: _Buffer) -> None:
    try:
        async with aclosing(stream):
            async for event in stream:
                if not buffer.push(event):
                    return
    finally:
        buffer.news.set()
