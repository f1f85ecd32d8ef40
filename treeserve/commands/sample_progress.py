"""Shows how far sampling has come: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from treeserve.contest.sampling.progress import Progress

_LINE_SECONDS = 10.0
_BAR_SECONDS = 0.2


class Display(Protocol):
    """A context manager that is told how far it is."""

    def __enter__(self) -> "Display": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def tell(self, progress: Progress) -> None: ...


def display() -> Display:
    """What fits stderr."""
    return BarDisplay() if sys.stderr.isatty() else LineDisplay()


class BarDisplay:
    """A bar that is gone at the end, with what `described` says behind it."""

    def __init__(self) -> None:
        self._bar = Bar(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)
        self._told_at = 0.0

    def __enter__(self) -> "BarDisplay":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told_at < _BAR_SECONDS:
            return
        self._told_at = now
        self._bar.update(
            self._task,
            description=described(progress),
            completed=progress.samples_done,
            total=progress.num_samples,
        )


class LineDisplay:
    """A line every few seconds; of a run that takes less, none."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __enter__(self) -> "LineDisplay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told_at >= _LINE_SECONDS:
            self._told_at = now
            print(described(progress), file=sys.stderr, flush=True)


def described(progress: Progress) -> str:
    """In a line."""
    parts = [
        f"{progress.problems_done} of {progress.num_problems} problems",
        f"{progress.samples_done} of {progress.num_samples} samples",
        f"{progress.tokens_per_second:,.0f} tokens/s",
    ]
    if progress.repairs_done:
        parts.insert(2, f"{progress.repairs_done} repairs")
    if progress.prompt_tokens:
        parts.append(f"{progress.part_saved:.0%} of prompt tokens saved")
    left = progress.seconds_left
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)
