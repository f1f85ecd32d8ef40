"""The progress line: what a long command is doing, on stderr."""

import sys
import time
from types import TracebackType

_INTERVAL_SECONDS = 0.2


class ProgressLine:
    """One line that is written over in a terminal and gone at the end; elsewhere, titles only.

    Args:
        line_seconds: Elsewhere than in a terminal, how far it is, as a line so often; None: never.
    """

    def __init__(self, line_seconds: float | None = None) -> None:
        self._line_seconds = line_seconds
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
            self._told_at = time.monotonic()
            print(title, file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """How far it has come; too frequent calls show nothing."""
        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        interval = _INTERVAL_SECONDS if is_terminal else self._line_seconds
        if interval is None or now - self._told_at < interval:
            return
        self._told_at = now
        if not is_terminal:
            print(f"{self._title.partition(':')[0]}: {text}", file=sys.stderr, flush=True)
            return
        print(f"\r{self._title} {text}\x1b[K", end="\r", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Before something else is written."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
