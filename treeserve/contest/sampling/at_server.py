"""Samples from a server: some portions at once, each a call that can be ended on its own."""

import asyncio
from collections import deque
from contextlib import aclosing

from treeserve.client import AsyncClient, RemoteError
from treeserve.contest.sampling.portion import (
    PORTION_SIZE,
    Portion,
    PortionEnded,
    PortionRefused,
    PortionTexts,
    SampleDrawn,
    SourceEvent,
)
from treeserve.errors import InvalidRequest
from treeserve.types import Finished, Prompt

_FULL = "RESOURCE_EXHAUSTED"


class _Turned:
    """A call that the server had no room for."""

    def __init__(self, samples: PortionTexts, error: RemoteError) -> None:
        self.samples = samples
        self.error = error


class AtServer:
    """Calls of one portion each. Where the server has no room, fewer are made at once.

    Args:
        address: The server's "host:port".
        at_once: Calls at once, at most.
    """

    def __init__(self, address: str, at_once: int) -> None:
        self._runner = asyncio.Runner()
        self._at_once = at_once
        self._events: asyncio.Queue[SourceEvent | _Turned | RemoteError] = asyncio.Queue()
        self._tasks: dict[Portion, asyncio.Task[None]] = {}
        self._turned: deque[PortionTexts] = deque()
        self._failure: RemoteError | None = None
        self._client = self._runner.run(self._connect(address))

    def num_free(self) -> int:
        if self._turned:
            return 0
        return max(0, self._at_once - len(self._tasks)) * PORTION_SIZE

    def submit(self, portion: Portion) -> None:
        self._start(PortionTexts(portion))

    def cancel(self, portion: Portion) -> None:
        task = self._tasks.get(portion)
        if task is not None:
            task.cancel()
        self._turned = deque(entry for entry in self._turned if entry.portion is not portion)
        self._events.put_nowait(PortionEnded(portion, None))

    def wait(self) -> list[SourceEvent]:
        """Raises RemoteError where a call has failed for good, once all else is told."""
        if self._failure is not None:
            raise self._failure
        if not self._tasks and self._events.empty():
            return []
        events = [self._runner.run(self._events.get())]
        while not self._events.empty():
            events.append(self._events.get_nowait())
        happened: list[SourceEvent] = []
        for event in events:
            if isinstance(event, RemoteError):
                self._failure = event
            elif isinstance(event, _Turned):
                self._turn(event)
            else:
                happened.append(event)
                if not isinstance(event, SampleDrawn):
                    self._tasks.pop(event.portion, None)
        self._start_turned()
        return happened

    def continued(self, prompt: Prompt, token_ids: tuple[int, ...], text: str) -> None:
        return None

    def sharing(self) -> None:
        return None

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._runner.run(self._disconnect())
        self._runner.close()

    def _start(self, samples: PortionTexts) -> None:
        task = self._runner.get_loop().create_task(self._call(samples))
        self._tasks[samples.portion] = task

    def _turn(self, turned: _Turned) -> None:
        """Wait for another call to end, and make one call less at once from now on."""
        self._tasks.pop(turned.samples.portion, None)
        if not self._tasks:
            self._failure = turned.error
        self._at_once = max(1, len(self._tasks))
        self._turned.append(turned.samples)

    def _start_turned(self) -> None:
        while self._turned and len(self._tasks) < self._at_once:
            self._start(self._turned.popleft())

    async def _connect(self, address: str) -> AsyncClient:
        # Who waits for what, and for how long, is decided here.
        return AsyncClient(address, retries=None)

    async def _disconnect(self) -> None:
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.close()

    async def _call(self, samples: PortionTexts) -> None:
        portion = samples.portion
        usage = None
        try:
            stream = self._client.generate(portion.prompt, portion.params)
            async with aclosing(stream) as items:
                async for item in items:
                    if isinstance(item, Finished):
                        usage = item.usage
                        continue
                    for event in samples.see(item):
                        self._events.put_nowait(event)
        except InvalidRequest as error:
            self._events.put_nowait(PortionRefused(portion, error))
        except RemoteError as error:
            self._events.put_nowait(_Turned(samples, error) if error.code == _FULL else error)
        else:
            self._events.put_nowait(PortionEnded(portion, usage))
