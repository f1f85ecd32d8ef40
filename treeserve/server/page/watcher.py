"""A watcher of the page: what waits to be sent to one browser, newest first, within bounds."""

import asyncio
import time

from treeserve.server.identity import Identity
from treeserve.server.page.picture import Wish

_MOST_CHARGED_SECONDS = 0.001
"""For one message: what is longer was spent on others meanwhile."""


class Watcher:
    """Holds one picture and one point at most: a slow reader gets fewer, never older ones.

    Args:
        identity: Whose it is.
        wish: What it wants to see.
    """

    def __init__(self, identity: Identity, wish: Wish) -> None:
        self.identity = identity
        self.wish = wish
        self.has_picture = False
        """Whether a picture has been put here."""
        self.is_closed = False
        self.sending_seconds = 0.0
        """Of this thread, since it was last charged."""
        self._waiting: dict[str, bytes] = {}
        self._woken = asyncio.Event()

    def put(self, kind: str, data: bytes) -> None:
        """To be sent next, in place of what waits of the same kind."""
        self.has_picture = self.has_picture or kind == "tree"
        self._waiting[kind] = data
        self._woken.set()

    def close(self) -> None:
        """Nothing is sent any more."""
        self.is_closed = True
        self._woken.set()

    async def next(self, timeout_seconds: float) -> bytes:
        """Server-sent events of all that waits; after that time a sign of life."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._woken.wait()
        except TimeoutError:
            return b": nothing new\n\n"
        self._woken.clear()
        waiting, self._waiting = self._waiting, {}
        return b"".join(
            b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
            for kind, data in waiting.items()
        )

    def charge(self, started: float) -> None:
        """Sending something took this thread from then (`time.thread_time()`) until now."""
        self.sending_seconds += min(time.thread_time() - started, _MOST_CHARGED_SECONDS)
