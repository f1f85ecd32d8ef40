"""The calibration as it is kept: the constants of one subject, and their form in JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from treeserve.calibration.fit import Constants, Crossover, Quality
from treeserve.calibration.subject import FORMAT_VERSION, Subject

_Section = TypeVar("_Section", Constants, Quality, Crossover)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The constants of one subject, and how far they can be trusted."""

    subject: Subject
    constants: Constants
    quality: Quality
    crossovers: tuple[Crossover, ...]
    measured_at: str
    """UTC, ISO 8601."""
    seconds: float
    """That measuring took."""


class BadRecord(ValueError):
    """A record that is not a calibration of this subject; says why."""


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Plain data, with readable names."""
    return {"format": FORMAT_VERSION, **asdict(calibration)}


def from_json(data: Any, subject: Subject) -> Calibration:
    """The calibration that plain data stands for.

    Args:
        data: As to_json made it; anything else is refused.
        subject: Whose calibration it must be.

    Raises:
        BadRecord: It is damaged, or another subject's.
    """
    record = _mapping("the file", data)
    if record.get("format") != FORMAT_VERSION:
        raise BadRecord(f"its format is {record.get('format')!r}, not {FORMAT_VERSION}")
    if record.get("subject") != asdict(subject):
        raise BadRecord("it was measured for something else")
    crossovers = record.get("crossovers")
    if not isinstance(crossovers, list):
        raise BadRecord("crossovers is not a list")
    constants = _section(Constants, "constants", record.get("constants"))
    if constants.token_cost <= 0:
        raise BadRecord("constants.token_cost is not positive")
    measured_at = record.get("measured_at")
    if not isinstance(measured_at, str):
        raise BadRecord("measured_at is not a text")
    return Calibration(
        subject=subject,
        constants=constants,
        quality=_section(Quality, "quality", record.get("quality")),
        crossovers=tuple(_section(Crossover, "crossovers", entry) for entry in crossovers),
        measured_at=measured_at,
        seconds=_number("seconds", record.get("seconds")),
    )


def _mapping(name: str, data: Any) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise BadRecord(f"{name} is not an object")
    return data


def _section(kind: type[_Section], name: str, data: Any) -> _Section:
    """A flat record of numbers; those that may be None count tokens."""
    values = _mapping(name, data)
    known = {field.name: field.type for field in fields(kind)}
    if values.keys() != known.keys():
        odd = sorted(values.keys() ^ known.keys())
        raise BadRecord(f"{name} lacks or does not know {odd[0]}")
    read: dict[str, Any] = {}
    for field, field_type in known.items():
        value = values[field]
        if value is None and field_type == int | None:
            read[field] = None
            continue
        number = _number(f"{name}.{field}", value)
        if field_type is float:
            read[field] = number
            continue
        if not isinstance(value, int) or value < (0 if field_type is int else 1):
            raise BadRecord(f"{name}.{field} is not a number of things")
        read[field] = value
    return kind(**read)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRecord(f"{name} is not a number")
    if not (math.isfinite(value) and value >= 0):
        raise BadRecord(f"{name} is not finite and at least 0")
    return float(value)
