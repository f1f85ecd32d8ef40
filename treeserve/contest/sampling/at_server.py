"""Samples from a server: some portions at once, each a call that can be ended on its own."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing, suppress
from types import MappingProxyType
from typing import Any, TypeAlias

from treeserve.client import AsyncClient, RemoteError
from treeserve.contest.sampling.portion import (
    PORTION_SIZE,
    Portion,
    PortionEnded,
    PortionRefused,
    PortionTexts,
    SampleDrawn,
    SamplePrompt,
    SourceEvent,
)
from treeserve.errors import InvalidRequest
from treeserve.types import Finished

_FULL = "RESOURCE_EXHAUSTED"
_MOMENT_SECONDS = 0.2
_MOST_TEXTS = 256
"""Of which token ids are remembered: repairs of one problem have its prompt in common."""


class _Turned:
    """A call that the server had no room for."""

    def __init__(self, samples: PortionTexts, error: RemoteError) -> None:
        self.samples = samples
        self.error = error


_Event: TypeAlias = SourceEvent | _Turned | RemoteError


class AtServer:
    """Calls of one portion each. Where the server has no room, fewer are made at once.

    A repair is a prompt of token ids: what its parent was asked and drew, and the text after it,
    which the server tokenises. It finds all of that cached up to the parent's end, as a branch.

    Args:
        address: The server's "host:port".
        at_once: Calls at once, at most.
        connection: Further arguments of the client.
    """

    def __init__(
        self, address: str, at_once: int, connection: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._runner = asyncio.Runner()
        self._at_once = at_once
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._tasks: dict[Portion, asyncio.Task[None]] = {}
        self._waiting: deque[PortionTexts] = deque()
        self._token_ids: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._failure: RemoteError | None = None
        try:
            self._client = self._runner.run(self._connect(address, connection))
        except BaseException:
            self._runner.close()
            raise

    def num_free(self) -> int:
        if self._waiting:
            return 0
        return max(0, self._at_once - len(self._tasks)) * PORTION_SIZE

    def submit(self, portion: Portion) -> None:
        self._waiting.append(PortionTexts(portion))
        self._start_waiting()

    def cancel(self, portion: Portion) -> None:
        task = self._tasks.get(portion)
        if task is not None:
            task.cancel()
        self._waiting = deque(entry for entry in self._waiting if entry.portion is not portion)
        self._events.put_nowait(PortionEnded(portion, None))

    def wait(self) -> list[SourceEvent]:
        """Raises RemoteError where a call has failed for good, once all else is told."""
        if self._failure is not None:
            raise self._failure
        if not self._tasks and self._events.empty():
            return []
        events = self._runner.run(self._next_events())
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
        self._start_waiting()
        return happened

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
        self._waiting.append(turned.samples)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._tasks) < self._at_once:
            self._start(self._waiting.popleft())

    async def _next_events(self) -> list[_Event]:
        """None after a moment: a verdict may be there, or somebody wants to stop."""
        events: list[_Event] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT_SECONDS):
                events.append(await self._events.get())
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    async def _connect(self, address: str, connection: Mapping[str, Any]) -> AsyncClient:
        # Who waits for what, and for how long, is decided here.
        return AsyncClient(address, retries=None, **connection)

    async def _disconnect(self) -> None:
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.close()

    async def _call(self, samples: PortionTexts) -> None:
        portion = samples.portion
        usage = None
        samples.begin_again()
        try:
            prompt = await self._resolved(portion.prompt)
            stream = self._client.generate(prompt, portion.params)
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

    async def _resolved(self, prompt: SamplePrompt) -> str | tuple[int, ...]:
        """A problem's text as it is, which the server tokenises just so; a repair as token ids."""
        if isinstance(prompt, str):
            return prompt
        before = await self._resolved(prompt.before)
        if isinstance(before, str):
            before = await self._tokenized(before, special_tokens=True)
        text = await self._tokenized(prompt.text, special_tokens=False)
        return (*before, *prompt.token_ids, *text)

    async def _tokenized(self, text: str, *, special_tokens: bool) -> tuple[int, ...]:
        key = (text, special_tokens)
        known = self._token_ids.get(key)
        if known is None:
            known = await self._client.tokenize(text, special_tokens=special_tokens)
            if len(self._token_ids) >= _MOST_TEXTS:
                del self._token_ids[next(iter(self._token_ids))]
            self._token_ids[key] = known
        return known
