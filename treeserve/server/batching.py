"""Gathers a stream's events, so that one message carries all that a step of the engine brought."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from treeserve.server.contract import EventStream
from treeserve.types import Delta, Finished, Usage

MAX_DELTAS = 1024
"""In one batch; it keeps messages well below the 4 MiB that gRPC clients take by default."""


@dataclass(slots=True)
class PromptEvents:
    """What is new of one prompt."""

    path: tuple[int, ...]
    deltas: list[Delta] = field(default_factory=list)
    usage: Usage | None = None
    """Set when all its samples have ended."""


async def batched(stream: EventStream) -> AsyncGenerator[list[PromptEvents], None]:
    """All events that have come since the last batch was taken; closes the stream.

    A message costs far more than what is in it: with hundreds of samples, one message for each
    token would take longer than the step that drew them.
    """
    events: list[Delta | Finished] = []
    news = asyncio.Event()
    reading = asyncio.create_task(_read(stream, events, news))
    try:
        while not (reading.done() and not events):
            await news.wait()
            news.clear()
            while events:
                batch = events[:MAX_DELTAS]
                del events[:MAX_DELTAS]
                yield group(batch)
        reading.result()
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def group(events: Iterable[Delta | Finished]) -> list[PromptEvents]:
    """Events by prompt, prompts in the order of their first event."""
    prompts: dict[tuple[int, ...], PromptEvents] = {}
    for event in events:
        prompt = prompts.get(event.path)
        if prompt is None:
            prompt = prompts[event.path] = PromptEvents(event.path)
        if isinstance(event, Finished):
            prompt.usage = event.usage
        else:
            prompt.deltas.append(event)
    return list(prompts.values())


async def _read(stream: EventStream, events: list[Delta | Finished], news: asyncio.Event) -> None:
    try:
        async with aclosing(stream):
            async for event in stream:
                events.append(event)
                news.set()
    finally:
        news.set()
