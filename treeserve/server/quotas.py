"""What each API key has in flight, and whether it may have more."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from treeserve.server.identity import Identity
from treeserve.server.refusals import Overloaded


@dataclass(slots=True)
class _Use:
    """Of one key."""

    num_requests: int = 0
    num_tokens: int = 0
    next_request: float = 0.0
    """When the last one would have come, had they all come evenly spaced."""


class Quotas:
    """Belongs to one event loop; outlives a reload of the keys, whose ids it goes by.

    Rates are kept by the generic cell rate algorithm (ITU-T I.371): a key may use its minute in one
    burst, and gets a request back every minute / requests_per_minute.

    Args:
        clock: In seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def request(self, identity: Identity) -> Iterator[None]:
        """Count a call as long as it runs.

        Raises:
            Overloaded: The key has as many in flight as it may, or had them too fast.
        """
        use = self._use(identity)
        most = identity.allowance.max_requests
        if most is not None and use.num_requests >= most:
            raise Overloaded(f"max_requests: {most} calls of this API key run, which is its limit")
        self._take_turn(identity, use)
        use.num_requests += 1
        try:
            yield
        finally:
            use.num_requests -= 1
            self._forget(identity, use)

    @contextmanager
    def tokens(self, identity: Identity, num_tokens: int) -> Iterator[None]:
        """Count a call's tokens as long as it runs.

        Raises:
            Overloaded: The key would have more in flight than it may.
        """
        use = self._use(identity)
        most = identity.allowance.max_tokens
        if most is not None and use.num_tokens + num_tokens > most:
            held = use.num_tokens
            raise Overloaded(
                f"max_tokens: this API key may have {most} tokens in flight, has {held}, and asks "
                f"for {num_tokens} more",
                None if num_tokens > most else Overloaded.RETRY_SECONDS,
            )
        use.num_tokens += num_tokens
        try:
            yield
        finally:
            use.num_tokens -= num_tokens
            self._forget(identity, use)

    def _use(self, identity: Identity) -> _Use:
        return self._uses.setdefault(identity.key_id, _Use())

    def _take_turn(self, identity: Identity, use: _Use) -> None:
        per_minute = identity.allowance.requests_per_minute
        if per_minute is None:
            return
        now = self._clock()
        spacing = 60 / per_minute
        turn = max(use.next_request, now)
        wait_seconds = turn - now - (60 - spacing)
        if wait_seconds > 1e-9:
            raise Overloaded(
                f"requests_per_minute: this API key may send {per_minute} calls a minute",
                wait_seconds,
            )
        use.next_request = turn + spacing

    def _forget(self, identity: Identity, use: _Use) -> None:
        idle = not use.num_requests and not use.num_tokens
        if idle and use.next_request <= self._clock():
            self._uses.pop(identity.key_id, None)
