"""The summary of an attention benchmark: geometric means over the matrix, and what is flagged."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from treeserve.bench.attention.records import BASELINES, PLAIN, TORCH, CaseResult
from treeserve.bench.attention.trees import TREES

MATRIX = frozenset(TREES[:10])
"""FastTree's ten, over which others' figures are means."""


def summarize(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """Means over FastTree's ten trees and over all, as far as they were timed."""
    matrix = [case for case in cases if case.tree in MATRIX]
    return {
        "num_cases": len(cases),
        "num_wrong": sum(case.is_wrong for case in cases),
        "num_flagged": sum(bool(case.flags) for case in cases),
        "matrix": _means(matrix),
        "all": _means(cases),
        "never_a_loss": _worst_loss(cases),
    }


def _means(cases: Sequence[CaseResult]) -> dict[str, Any]:
    ratios = {
        name: _mean(case.ratio(name) for case in cases) for name in (PLAIN, TORCH, *BASELINES)
    }
    return {
        "share_of_floor": _mean(case.share_of_floor for case in cases),
        "ratios": {name: mean for name, mean in ratios.items() if mean is not None},
    }


def _mean(values: Iterable[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.exp(math.fsum(map(math.log, known)) / len(known))
    return {
        "geometric_mean": mean,
        "least": min(known),
        "most": max(known),
        "num_cases": len(known),
    }


def _worst_loss(cases: Sequence[CaseResult]) -> dict[str, Any] | None:
    """Of the cases in which sharing must not lose."""
    timed = [
        (1 / ratio, case)
        for case in cases
        if case.never_a_loss and (ratio := case.ratio(PLAIN)) is not None
    ]
    if not timed:
        return None
    worst, case = max(timed, key=lambda entry: entry[0])
    return {
        "num_cases": len(timed),
        "worst_times_as_long": worst,
        "tree": case.tree,
        "heads": case.heads,
        "dtype": case.dtype,
    }
