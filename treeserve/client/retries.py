"""When a failed call is made again, and after what time: only where that is safe."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from treeserve.client.remote_error import RemoteError
from treeserve.errors import ConfigError, InvalidRequest

_UNAVAILABLE = "UNAVAILABLE"
_FULL = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how fast calls are made again; a call's timeout bounds all attempts together.

    Attributes:
        max_attempts: Of one call, the first among them; 1 is never again. Default: 6.
        first_delay_seconds: Before the second attempt, doubled for each that follows, and then
            anything from half of that to all of it. Default: 0.1.
        max_delay_seconds: That it is doubled to at most. What the server asks for in a RetryInfo is
            waited for in full, and up to a tenth longer, however long it is. Default: 5.

    Raises:
        ConfigError: A number is out of range.
    """

    max_attempts: int = 6
    first_delay_seconds: float = 0.1
    max_delay_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"max_attempts: must be at least 1, got {self.max_attempts}")
        if not 0 < self.first_delay_seconds < math.inf:
            given = self.first_delay_seconds
            raise ConfigError(f"first_delay_seconds: must be above 0, got {given}")
        if not self.first_delay_seconds <= self.max_delay_seconds < math.inf:
            given = self.max_delay_seconds
            raise ConfigError(
                f"max_delay_seconds: must be at least first_delay_seconds, got {given}"
            )


NO_RETRIES = Retries(max_attempts=1)


class Attempts:
    """The attempts of one call, and what is left of its time.

    Args:
        retries: How often and how fast.
        timeout_seconds: For all attempts together; None: no limit.
        repeats_lost: Whether it may be made again where nobody knows what became of it.
        repeats_exactly: Whether it would tell the same again, from the beginning.
        clock: Monotonic, in seconds.
        chance: A number in [0, 1), for the jitter.

    Raises:
        InvalidRequest: The timeout is none.
    """

    def __init__(
        self,
        retries: Retries,
        timeout_seconds: float | None,
        *,
        repeats_lost: bool = True,
        repeats_exactly: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if timeout_seconds is not None and not 0 < timeout_seconds < math.inf:
            raise InvalidRequest("timeout_seconds", f"must be above 0, got {timeout_seconds}")
        self._retries = retries
        self._repeats_lost = repeats_lost
        self._repeats_exactly = repeats_exactly
        self._clock = clock
        self._chance = chance
        self._deadline = None if timeout_seconds is None else clock() + timeout_seconds
        self._num_failed = 0

    def seconds_left(self) -> float | None:
        """Of the call's time, at least 0; None: no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    def delay_after(self, error: RemoteError, *, has_begun: bool, is_told: bool) -> float | None:
        """Seconds to wait before the next attempt; None: there must be none.

        Args:
            error: How the last one ended.
            has_begun: Whether a message of it has arrived.
            is_told: Whether the caller has seen any of it.
        """
        self._num_failed += 1
        delay = self._delay(error)
        left = self.seconds_left()
        if (
            not self._may_repeat(error, has_begun=has_begun, is_told=is_told)
            or self._num_failed >= self._retries.max_attempts
            or (left is not None and delay >= left)
        ):
            return None
        return delay

    def _may_repeat(self, error: RemoteError, *, has_begun: bool, is_told: bool) -> bool:
        if is_told or (has_begun and not self._repeats_exactly):
            return False
        if error.code == _FULL:
            return error.retry_seconds is not None
        return error.code == _UNAVAILABLE and self._repeats_lost

    def _delay(self, error: RemoteError) -> float:
        if error.retry_seconds is not None:
            return error.retry_seconds * (1 + self._chance() / 10)
        doubled = self._retries.first_delay_seconds * 2.0 ** min(self._num_failed - 1, 64)
        return min(doubled, self._retries.max_delay_seconds) * (1 + self._chance()) / 2
