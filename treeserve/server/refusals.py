"""Why the server refuses a call that is right in itself."""

from treeserve.errors import TreeserveError


class Unauthenticated(TreeserveError):
    """A call without a valid key; its text never says what was wrong with the key."""


class Forbidden(TreeserveError):
    """A caller without the permission that a call needs; names it."""


class Overloaded(TreeserveError):
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


class ReaderTooSlow(TreeserveError):
    """A caller that does not take what it asked for."""
