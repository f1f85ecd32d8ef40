"""The time limit of a benchmark, and how it is shared out."""

import math
import time
from collections.abc import Callable


class Deadline:
    """Never moves.

    Args:
        seconds: From now. None: there is no limit.
        clock: Seconds.
    """

    def __init__(
        self, seconds: float | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._at = math.inf if seconds is None else clock() + seconds

    def left(self) -> float:
        """Seconds; below 0 when it has passed, infinite where there is no limit."""
        return self._at - self._clock()

    def share(self, parts: int) -> float:
        """Seconds for each of so many equal parts of what is left, at least 0."""
        return max(self.left(), 0.0) / parts

    def part(self, share: float) -> "Deadline":
        """One that passes after this share of what is left."""
        left = self.left()
        return Deadline(None if math.isinf(left) else max(left, 0.0) * share, self._clock)


class Allowance:
    """Seconds that each of several things may take in all; one that has used them up gets no more.

    What has begun is not interrupted, so the last use may go beyond it.

    Args:
        seconds: Of each. None: as many as it takes.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._spent: dict[str, float] = {}

    def spend(self, name: str, seconds: float) -> None:
        """It has taken so many more."""
        self._spent[name] = self.spent(name) + seconds

    def spent(self, name: str) -> float:
        """Seconds so far."""
        return self._spent.get(name, 0.0)

    def is_used_up(self, name: str) -> bool:
        return self.spent(name) >= self._seconds
