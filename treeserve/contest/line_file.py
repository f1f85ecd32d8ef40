"""Files of JSON lines that a run adds to: one run at a time, each line whole or not there."""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from treeserve.contest.records.fields import RecordError, shown
from treeserve.errors import ConfigError


def write_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of its file, in ASCII."""
    return json.dumps(record, ensure_ascii=True).encode() + b"\n"


def read_line(line: str | bytes, where: str) -> dict[str, Any]:
    """The record of a line.

    Raises:
        RecordError: It is no JSON object; names `where`.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{where}: expected a JSON object, found {shown(record)}")
    return record


def lock(file: IO[Any], path: Path) -> None:
    """Keep the file for this run until it is closed.

    Raises:
        ConfigError: Another run writes it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"--output: {path} is being written by another run") from None
