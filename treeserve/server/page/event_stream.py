"""The response that tells a browser what is new for as long as it reads."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

from starlette.types import Message, Receive, Scope, Send

from treeserve.server.page.watcher import Watcher
from treeserve.server.refusals import Unauthenticated

KEEP_ALIVE_SECONDS = 15.0
MAX_STALL_SECONDS = 20.0
"""A reader that takes nothing for so long is cut off."""
ABORT = "treeserve.abort"
"""In the scope of a request: what ends its connection at once, whatever waits to be sent."""

Check = Callable[[], object]
"""Raises where the caller may watch no more."""


class EventStream:
    """Server-sent events of one watcher, as an ASGI response.

    Args:
        watcher: Served until the stack is closed.
        stack: Closed at the end.
        check: Asked before every message.
        headers: Of the response, besides its type.
    """

    def __init__(
        self,
        watcher: Watcher,
        stack: ExitStack,
        check: Check,
        headers: dict[str, str],
    ) -> None:
        self._watcher = watcher
        self._stack = stack
        self._check = check
        self._headers = {"content-type": "text/event-stream", **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            leaving = asyncio.create_task(_leave(receive, self._watcher))
            try:
                await self._send_all(self._watcher, send)
            except TimeoutError:
                scope[ABORT]()
            finally:
                leaving.cancel()

    async def _send_all(self, watcher: Watcher, send: Send) -> None:
        encoded = [(k.encode(), v.encode()) for k, v in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})
        while True:
            data = await watcher.next(KEEP_ALIVE_SECONDS)
            try:
                self._check()
            except Unauthenticated:
                watcher.close()
            if watcher.is_closed:
                break
            started = time.thread_time()
            # Without a task of its own: where nothing waits, this is all that it costs.
            async with asyncio.timeout(MAX_STALL_SECONDS):
                await send(_body(data, more=True))
            watcher.charge(started)
        async with asyncio.timeout(MAX_STALL_SECONDS):
            await send(_body(b"", more=False))


async def _leave(receive: Receive, watcher: Watcher) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    watcher.close()


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
