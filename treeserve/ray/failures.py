"""Errors on their way from a replica to the ingress: those that treeserve raises on purpose."""

from treeserve.errors import (
    AlreadyExists,
    BeyondDrawn,
    Damaged,
    EngineStopped,
    InvalidRequest,
    NoRoom,
    NotFound,
    NotPossible,
    TreeserveError,
)
from treeserve.ray.calls import Failure

_KINDS: dict[str, type[TreeserveError]] = {
    kind.__name__: kind
    for kind in (
        AlreadyExists,
        BeyondDrawn,
        Damaged,
        EngineStopped,
        InvalidRequest,
        NoRoom,
        NotFound,
        NotPossible,
    )
}


def write_failure(error: TreeserveError) -> Failure:
    """As data; a kind that is not known goes by the nearest that it is one of.

    Raises:
        TreeserveError: The error itself, where there is none.
    """
    for kind in type(error).__mro__:
        if _KINDS.get(kind.__name__) is kind:
            if isinstance(error, InvalidRequest):
                return Failure(kind.__name__, (error.field, error.description))
            return Failure(kind.__name__, (str(error),))
    raise error


def read_failure(failure: Failure) -> TreeserveError:
    """The error as it was."""
    return _KINDS[failure.kind](*failure.arguments)
