"""Why the server itself refuses a call; what the engine's state refuses is in treeserve.errors."""

from treeserve.errors import Refused


class Unauthenticated(Refused):
    """A call without a valid key; its text never says what was wrong with the key."""


class Forbidden(Refused):
    """A caller without the permission that a call needs; names it."""


class Overloaded(Refused):
    """More than the server, or a caller's key, takes at once.

    Args:
        message: Names the limit.
        retry_seconds: When to try again; None: never as it stands.
    """

    RETRY_SECONDS = 1.0
    """Where nothing better is known."""

    def __init__(self, message: str, retry_seconds: float | None = RETRY_SECONDS) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class ReaderTooSlow(Refused):
    """A caller that does not take what it asked for."""


class DeadlinePassed(Refused):
    """The deadline of a call passed before its samples had ended."""
