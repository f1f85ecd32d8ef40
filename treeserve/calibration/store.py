"""Stored calibrations: one JSON file each, in the user's cache folder."""

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from treeserve.cache_folder import cache_folder
from treeserve.calibration.record import BadRecord, Calibration, from_json, to_json
from treeserve.calibration.subject import Subject
from treeserve.errors import CalibrationError

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20
"""A larger file is none of ours."""


def calibration_path(subject: Subject) -> Path:
    """Where the subject's calibration is stored, if it is.

    Under $TREESERVE_CACHE, else $XDG_CACHE_HOME/treeserve, else ~/.cache/treeserve.

    Raises:
        CalibrationError: There is no such folder, for there is no home.
    """
    return _cache_folder() / "calibration" / f"{subject.key}.json"


def find_calibration(subject: Subject) -> Calibration | None:
    """The stored calibration; a file that cannot be used is passed over with a warning."""
    try:
        path = calibration_path(subject)
        return from_json(_read(path), subject)
    except FileNotFoundError:
        return None
    except CalibrationError as error:
        logger.warning("%s", error)
    except (OSError, BadRecord, ValueError, RecursionError) as error:
        logger.warning("calibration: passing over %s: %s", path, error)
    return None


def store_calibration(calibration: Calibration) -> Path:
    """Write it, in whole or not at all.

    Raises:
        CalibrationError: It cannot be written.
    """
    path = calibration_path(calibration.subject)
    content = json.dumps(to_json(calibration), indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_in_place_of(path, content)
    except OSError as error:
        raise CalibrationError(f"calibration: cannot write {path}: {error.strerror}") from error
    return path


def _cache_folder() -> Path:
    try:
        return cache_folder()
    except RuntimeError as error:
        raise CalibrationError("calibration: no home folder; set TREESERVE_CACHE") from error


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise BadRecord("it is too large")
    return json.loads(content)


def _write_in_place_of(path: Path, content: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
