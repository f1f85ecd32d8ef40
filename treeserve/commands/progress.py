"""The progress line: what a long command is doing, on stderr."""

import sys
import time
from types import TracebackType

_INTERVAL_SECONDS = 0.2


class ProgressLine:
    """One line that is written over in a terminal and gone at the end; elsewhere, titles only."""

    def __init__(self) -> None:
        self._title = ""
        self._told_at = 0.0

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def start(self, title: str) -> None:
        """Something new has begun."""
        self._title, self._told_at = title, 0.0
        if sys.stderr.isatty():
            self.tell("")
        else:
            print(title, file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """How far it has come; too frequent calls show nothing."""
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self._told_at < _INTERVAL_SECONDS:
            return
        self._told_at = now
        print(f"\r{self._title} {text}\x1b[K", end="\r", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Before something else is written."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
