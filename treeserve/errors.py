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


class ModelError(TreeserveError):
    """A model that cannot be loaded or served; says which and why."""


class ConfigError(TreeserveError, ValueError):
    """An option that is unknown or out of range; names it and says what would be right."""


class CalibrationError(TreeserveError):
    """A calibration that could not be measured or stored; says why."""


class EngineStopped(TreeserveError):
    """The engine is draining or has failed and takes no more requests."""
