"""Which calls are in flight, and whether more may come."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from treeserve.errors import EngineStopped
from treeserve.server.refusals import Overloaded


class Phase(StrEnum):
    """What the server is doing; it only moves down this list."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Calls:
    """The calls in flight; belongs to one event loop.

    Args:
        max_calls: More at once are refused.
        retry_seconds: When a refused call may try again.
    """

    def __init__(
        self,
        max_calls: int,
        retry_seconds: Callable[[], float] = lambda: Overloaded.RETRY_SECONDS,
    ) -> None:
        self.phase = Phase.LOADING
        self._retry_seconds = retry_seconds
        self._max_calls = max_calls
        self._tasks: set[asyncio.Task[object]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_running(self) -> int:
        return len(self._tasks)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count the current task as a call.

        Raises:
            EngineStopped: The server is loading or going down.
            Overloaded: There are too many.
        """
        if self.phase is not Phase.READY:
            raise EngineStopped(f"the server is {self.phase.value}")
        if len(self._tasks) >= self._max_calls:
            raise Overloaded(
                f"{self._max_calls} calls are running, which is the limit", self._retry_seconds()
            )
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._empty.clear()
        try:
            yield
        finally:
            self._tasks.remove(task)
            if not self._tasks:
                self._empty.set()

    async def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Whether every call ended in time."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True

    async def cut_short(self) -> None:
        """End every call that still runs, and wait for them."""
        self.phase = Phase.STOPPED
        for task in self._tasks:
            task.cancel()
        await self._empty.wait()
