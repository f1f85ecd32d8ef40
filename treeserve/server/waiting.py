"""How much waits for its first token, whether more may, and how long that takes."""

from collections.abc import Iterator
from contextlib import contextmanager

from treeserve.errors import InvalidRequest
from treeserve.request_size import RequestSize
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.refusals import Overloaded

_MAX_RETRY_SECONDS = 60.0


class WaitingRoom:
    """Belongs to one event loop.

    It counts what was sent to the engine and has not yet drawn a token, and not the engine's own
    queue, which is known only after the next step: a burst between two steps is bounded too.

    Args:
        max_requests: Prompts.
        max_tokens: Of the prompts, and n × max_tokens of each.
        watch: Knows the engine's pace.
    """

    def __init__(self, max_requests: int, max_tokens: int, watch: EngineWatch) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._watch = watch
        self.num_requests = 0
        self.num_tokens = 0

    @contextmanager
    def wait(self, size: RequestSize) -> "Iterator[Ticket]":
        """Count a call's prompts until they draw, or end.

        Raises:
            Overloaded: There is no room; says when there may be.
            InvalidRequest: There would be none if it were alone.
        """
        self._check(size)
        ticket = Ticket(self, size)
        self._change(size.num_requests, size.num_tokens)
        try:
            yield ticket
        finally:
            ticket.leave()

    def retry_seconds(self) -> float:
        """How long the engine takes for what waits, at its recent pace; at least a second."""
        pace = self._watch.tokens_per_second
        seconds = self.num_tokens / pace if pace > 0 else 0.0
        return min(max(seconds, Overloaded.RETRY_SECONDS), _MAX_RETRY_SECONDS)

    def _change(self, num_requests: int, num_tokens: int) -> None:
        self.num_requests += num_requests
        self.num_tokens += num_tokens

    def _check(self, size: RequestSize) -> None:
        bounds = (
            ("prompts", self.num_requests, size.num_requests, self._max_requests),
            ("tokens", self.num_tokens, size.num_tokens, self._max_tokens),
        )
        for what, waiting, more, most in bounds:
            if more > most:
                raise InvalidRequest(
                    "request", f"has {more} {what} (prompts and n × max_tokens); {most} may wait"
                )
            if waiting + more > most:
                raise Overloaded(
                    f"{waiting} {what} wait and {more} more came; {most} may wait",
                    self.retry_seconds(),
                )


class Ticket:
    """What one call has in the waiting room.

    Args:
        room: Holds it.
        size: All its prompts.
    """

    def __init__(self, room: WaitingRoom, size: RequestSize) -> None:
        self._room = room
        self._waiting = dict(size.tokens_by_path)

    def __bool__(self) -> bool:
        """Whether anything of the call still waits."""
        return bool(self._waiting)

    def leave_one(self, path: tuple[int, ...]) -> None:
        """A prompt has drawn its first token, or ended."""
        num_tokens = self._waiting.pop(path, None)
        if num_tokens is not None:
            self._room._change(-1, -num_tokens)

    def leave(self) -> None:
        """Everything has ended."""
        for path in list(self._waiting):
            self.leave_one(path)
