"""An interrupt that waits until a step has ended; a second one does not wait."""

import signal
from types import FrameType, TracebackType


class DeferredInterrupt:
    """A context manager, for the main thread.

    Attributes:
        is_asked: Whether somebody wants to stop.
    """

    def __init__(self) -> None:
        self.is_asked = False

    def __enter__(self) -> "DeferredInterrupt":
        self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        signal.signal(signal.SIGINT, self._previous)
