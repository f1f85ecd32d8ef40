"""The profile of one decode step: milliseconds and share of each part, case by case."""

from collections.abc import Mapping
from typing import Any

from treeserve.bench.decode.clocks import (
    ATTENTION,
    BATCH,
    HEAD,
    LINEAR,
    NORMS,
    PLAN,
    REST,
    SAMPLING,
    SCHEDULER,
)
from treeserve.bench.table import Column, TableStyle, fit, percent, render_table

PARTS = {
    ATTENTION: "attention",
    LINEAR: "linear",
    HEAD: "head",
    NORMS: "norms",
    REST: "rest",
    SAMPLING: "sampling",
    BATCH: "arrays",
    PLAN: "plan",
    SCHEDULER: "scheduler",
}
_COLUMNS = (Column("part of a step", 16), Column("ms", 10), Column("share", 8))


def render_profile(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """Lines: of each case that has clocks, a table by part, with the whole step at its end."""
    lines: list[str] = []
    for case in result["cases"]:
        if not case["part_seconds"]:
            continue
        title = (
            f"One step at batch {case['batch']:,} and prefix {case['prefix']:,}, clocks running: "
            f"{result['backend']} attention, {result['linear_layers']} linear layers, "
            f"{result['dtype']}, {result['threads']} threads"
        )
        lines += ["", *fit([title], style), "", *render_table(_COLUMNS, _rows(case), style)]
    return lines


def _rows(case: Mapping[str, Any]) -> list[list[str]]:
    seconds = case["part_seconds"]
    rows = [
        [PARTS[part], f"{seconds[part] * 1e3:.2f}", percent(case["shares"][part])] for part in PARTS
    ]
    return [*rows, ["all", f"{sum(seconds.values()) * 1e3:.2f}", percent(1.0)]]
