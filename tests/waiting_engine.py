"""An engine that gets no further than a test wants, however the threads of both take turns."""

import math
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from treeserve.loop import EngineLoop, _Abort

_STEPS_FOR_NEWS = 4
"""That a message may need until its outcome is told."""


@contextmanager
def engine_waits_after(loop: EngineLoop, num_steps: int) -> Iterator[None]:
    """It makes so many steps, and then a few for each message: a request, an abort, a call.

    Without it a tiny model ends hundreds of tokens while the test, or its client, waits for a core.
    In the end it goes on as ever.
    """
    inbox = loop._inbox
    waiting = _WaitingInbox(inbox, num_steps)
    loop._inbox = waiting
    try:
        yield
    finally:
        waiting.num_steps = math.inf
        loop._inbox = inbox
        # Whoever waits is woken; nobody has this id.
        inbox.put(_Abort("nobody", None))


class _WaitingInbox:
    def __init__(self, inbox: "queue.SimpleQueue[Any]", num_steps: float) -> None:
        self._inbox = inbox
        self.num_steps = num_steps
        self.put = inbox.put
        self.empty = inbox.empty
        self.get_nowait = inbox.get_nowait

    def get(self, block: bool = True) -> Any:
        """The engine makes a step where this raises queue.Empty."""
        try:
            message = self._inbox.get(block=block)
        except queue.Empty:
            if self.num_steps > 0:
                self.num_steps -= 1
                raise
            message = self._inbox.get()
        self.num_steps = max(self.num_steps, _STEPS_FOR_NEWS)
        return message
