"""The errors that treeserve raises on purpose, each with one line that says what to do."""


class TreeserveError(Exception):
    """Base of all of them."""


class InvalidRequest(TreeserveError, ValueError):
    """A request that can never be served as it stands; names the field and the limit.

    Attributes:
        field: Name of the offending field, as in the public API and the protobuf messages.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class BeyondDrawn(InvalidRequest):
    """A token that a sample has not drawn (yet)."""


class ModelError(TreeserveError):
    """A model that cannot be loaded or served; says which and why."""


class ConfigError(TreeserveError, ValueError):
    """An option that is unknown or out of range; names it and says what would be right."""


class CalibrationError(TreeserveError):
    """A calibration that could not be measured or stored; says why."""


class KernelError(TreeserveError):
    """A kernel that cannot be compiled or loaded; says why."""


class EngineStopped(TreeserveError):
    """The engine is draining or has failed and takes no more requests."""


class RankLost(TreeserveError):
    """Another rank of this engine is gone or hangs: no step can be computed any more."""


class OverBudget(InvalidRequest):
    """A request for more of something that is shared out than is left of it now.

    Attributes:
        num_left: What could still be had.
    """

    def __init__(self, field: str, description: str, num_left: int) -> None:
        super().__init__(field, description)
        self.num_left = num_left


class Refused(TreeserveError):
    """A request that is right in itself and cannot be carried out as things are; says why."""


class NotFound(Refused):
    """What it names is not there, or is not the caller's."""


class AlreadyExists(Refused):
    """What it would make is there already."""


class NotPossible(Refused):
    """The server is not in a state for it, or the model or this installation does not have it."""


class NoRoom(Refused):
    """It needs more of a bounded thing than is left; says how much is."""


class Damaged(Refused):
    """What was stored is not what was written."""


def why_unreadable(error: OSError | UnicodeDecodeError | EOFError) -> str:
    """Why a file cannot be read, in words that go behind its name."""
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8 at byte {error.start}"
    return getattr(error, "strerror", None) or str(error)
