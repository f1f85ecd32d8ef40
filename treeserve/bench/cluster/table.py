"""Results of clusters as tables."""

from collections.abc import Mapping
from typing import Any

from treeserve.bench.table import (
    Column,
    TableStyle,
    fit,
    machine_line,
    number,
    render_table,
)

_COLUMNS = (
    Column("router", 13), Column("workload", 9), Column("prompt tokens", 14),
    Column("computed", 9), Column("excess", 8), Column("imbalance", 10), Column("tokens/s", 9),
    Column("first p50 ms", 13), Column("p99 ms", 8),
)  # fmt: skip
_PAPER_COLUMNS = (
    Column("router", 13), Column("workload", 9), Column("replicas", 9), Column("requests", 9),
    Column("hit", 6), Column("excess", 8), Column("later", 7), Column("imbalance", 10),
    Column("later", 6), Column("first p99 ms", 13), Column("decision us", 12),
    Column("nodes", 9), Column("tokens", 11),
)  # fmt: skip
_ALONE = "one replica"


def render(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """What was measured, router by router; the excess is over one replica that holds everything."""
    measured = result["measured"]
    least = {e["workload"]: e["computed_tokens"] for e in measured if e["router"] == _ALONE}
    options = result["options"]
    head = (
        f"{options['num_replicas']} replicas on Ray Serve, {options['num_streams']} streams open, "
        f"{options['num_chains']} chains of each workload"
    )
    rows = [_row(entry, least[entry["workload"]]) for entry in measured]
    return [*fit([machine_line(result), head], style), "", *render_table(_COLUMNS, rows, style)]


def render_paper(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """What was simulated; "later" is of the requests that came in the later half."""
    head = (
        f"simulated: {result['device']}, {result['seconds']:g} s of arrivals, real router; excess "
        "over one replica that holds everything; later: of the later half of the requests"
    )
    rows = [_paper_row(entry) for entry in result["simulated"]]
    return [*fit([head], style), "", *render_table(_PAPER_COLUMNS, rows, style)]


def _row(entry: Mapping[str, Any], least: int) -> list[str]:
    return [
        entry["router"],
        entry["workload"],
        f"{entry['prompt_tokens']:,}",
        f"{entry['computed_tokens']:,}",
        f"{entry['computed_tokens'] / least - 1:.1%}",
        f"{entry['imbalance']:.2f}",
        number(entry["drawn_tokens"] / entry["seconds"], 0),
        number(entry["first_token_p50"] * 1e3, 0),
        number(entry["first_token_p99"] * 1e3, 0),
    ]


def _paper_row(entry: Mapping[str, Any]) -> list[str]:
    return [
        entry["router"],
        entry["workload"],
        f"{entry['num_replicas']:,}",
        f"{entry['num_requests']:,}",
        f"{1 - entry['computed_tokens'] / entry['prompt_tokens']:.1%}",
        f"{entry['excess']:.1%}",
        f"{entry['warm_excess']:.1%}",
        f"{entry['imbalance']:.2f}",
        f"{entry['warm_imbalance']:.2f}",
        number(entry["time_to_first_token"]["p99"] * 1e3, 0),
        number(entry["decision_ms"]["p50"] * 1e3, 0),
        f"{entry['num_nodes']:,}",
        f"{entry['num_tree_tokens']:,}",
    ]
