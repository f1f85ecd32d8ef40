"""Checkers: whether what a program gave is what was expected."""

import math
from collections.abc import Sequence
from typing import Any

from treeserve.contest.records.contest_problem import CheckerName

DEFAULT_TOLERANCE = 1e-6
_SHOWN = 60


def difference(checker: CheckerName, got: str, expected: str, tolerance: float) -> str | None:
    """Where output differs from what was expected, in a line; None where it does not.

    `exact` compares line by line, without spaces at the end of a line and empty lines at the end of
    the text; `tokens` compares what stands between spaces; `float` does too, and takes two
    numbers for equal that are `tolerance` apart, relative or absolute, if one of them has a
    fraction.
    """
    if checker == "exact":
        return _first_difference("line", _lines(got), _lines(expected), None)
    allowed = tolerance if checker == "float" else None
    return _first_difference("token", got.split(), expected.split(), allowed)


def value_difference(got: Any, expected: Sequence[Any], tolerance: float) -> str | None:
    """Where a returned value (as JSON has it) differs from all that is expected."""
    if any(_equal_values(got, value, tolerance) for value in expected):
        return None
    return f"expected {_cut(repr(expected[-1]))}, got {_cut(repr(got))}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _first_difference(
    unit: str, got: Sequence[str], expected: Sequence[str], tolerance: float | None
) -> str | None:
    for index, (mine, wanted) in enumerate(zip(got, expected, strict=False), start=1):
        if mine != wanted and not (tolerance and _close(mine, wanted, tolerance)):
            return f"{unit} {index}: expected {_cut(repr(wanted))}, got {_cut(repr(mine))}"
    if len(got) != len(expected):
        return f"expected {len(expected)} {unit}s, got {len(got)}"
    return None


def _close(mine: str, wanted: str, tolerance: float) -> bool:
    if not any(mark in mine + wanted for mark in ".eE"):
        return False
    try:
        return _close_numbers(float(mine), float(wanted), tolerance)
    except ValueError:
        return False


def _close_numbers(mine: float, wanted: float, tolerance: float) -> bool:
    return math.isclose(mine, wanted, rel_tol=tolerance, abs_tol=tolerance)


def _equal_values(mine: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(mine, list) and isinstance(wanted, list):
        pairs = zip(mine, wanted, strict=False)
        return len(mine) == len(wanted) and all(_equal_values(*pair, tolerance) for pair in pairs)
    if isinstance(mine, dict) and isinstance(wanted, dict):
        return mine.keys() == wanted.keys() and all(
            _equal_values(mine[key], wanted[key], tolerance) for key in mine
        )
    if isinstance(mine, bool) or isinstance(wanted, bool):
        return mine is wanted
    if isinstance(mine, float) or isinstance(wanted, float):
        numbers = isinstance(mine, int | float) and isinstance(wanted, int | float)
        return numbers and _close_numbers(mine, wanted, tolerance)
    return bool(mine == wanted)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
