"""Fields of a record, taken out with errors that name the field and what would be right."""

import json
from collections.abc import Mapping
from typing import Any

from treeserve.errors import ConfigError

Record = Mapping[str, Any]

_SHOWN = 80


class RecordError(ConfigError):
    """A record that cannot be used; the message names the place, the field and what is wrong."""


class UnknownRecord(RecordError):
    """A record that no reader knows."""


def text(record: Record, name: str, where: str) -> str:
    """A field that is there and holds text that is not empty."""
    value = optional_text(record, name, where)
    if not value.strip():
        raise RecordError(f"{where}: field '{name}': expected a text that is not empty")
    return value


def optional_text(record: Record, name: str, where: str) -> str:
    """A text, or "" where the field is missing or null."""
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RecordError(f"{where}: field '{name}': expected a text, found {shown(value)}")
    return value


def identifier(record: Record, name: str, where: str) -> str:
    """A text or an integer, as text."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RecordError(
            f"{where}: field '{name}': expected a text or an integer, found {shown(value)}"
        )
    return str(value)


def texts(record: Record, name: str, where: str) -> list[str]:
    """A list of texts; [] where the field is missing or null."""
    value = record.get(name)
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise RecordError(
            f"{where}: field '{name}': expected a list of texts, found {shown(value)}"
        )
    return value


def parsed_json(value: Any, name: str, where: str) -> Any:
    """What a field holds as JSON text; a value that is no text is taken as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: field '{name}': not JSON: {error}") from None


def shown(value: Any) -> str:
    """A value in a message, cut short."""
    if value is None:
        return "nothing"
    written = repr(value)
    return written if len(written) <= _SHOWN else f"{written[:_SHOWN]}…"
