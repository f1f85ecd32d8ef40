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
    Column("router", 12), Column("engines", 10), Column("workload", 9), Column("replicas", 9),
    Column("requests", 10), Column("used", 5), Column("hit", 6), Column("bound", 6),
    Column("excess", 7), Column("later", 7), Column("imbalance", 10), Column("later", 6),
    Column("streams", 8), Column("first p99 ms", 13), Column("token p99 ms", 13),
    Column("decision us", 12), Column("p99 us", 7), Column("nodes", 10), Column("tokens", 12),
)  # fmt: skip
_DECISION_COLUMNS = (
    Column("replicas", 8), Column("tokens cached", 14), Column("on replicas", 13),
    Column("nodes", 9), Column("memory MB", 10), Column("decisions", 10), Column("p50 ms", 7),
    Column("p99 ms", 7), Column("worst ms", 9), Column("CPU p50", 8), Column("CPU p99", 8),
    Column("CPU worst", 10),
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
    """What was simulated; "later" is of the later half of the time in which requests come."""
    head = (
        f"simulated: {result['device']}, {result['max_running']} streams at most, "
        f"{result['seconds']:g} s of arrivals, real router. Excess: prompt tokens computed beyond "
        "what one replica would that holds everything; bound: what balance costs any router. "
        "Imbalance: tokens computed and drawn, the most of a replica over the mean, while requests "
        "come; streams: the same of samples that decode at once. Later: of the later half. "
        "Used: of what a replica can do."
    )
    rows = [_paper_row(entry) for entry in result["simulated"]]
    return [*fit([head], style), "", *render_table(_PAPER_COLUMNS, rows, style)]


def render_decisions(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """What a decision takes, in real and in CPU time."""
    head = "decisions of the router in one thread: choosing a replica, and noting it"
    rows = [_decision_row(entry) for entry in result["measured"]]
    return [*fit([head], style), "", *render_table(_DECISION_COLUMNS, rows, style)]


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
        entry["engines"],
        entry["workload"],
        f"{entry['num_replicas']:,}",
        f"{entry['num_requests']:,}",
        f"{entry['utilisation']:.0%}",
        f"{1 - entry['computed_tokens'] / entry['prompt_tokens']:.1%}",
        f"{entry['bound']:.1%}",
        f"{entry['excess']:.1%}",
        f"{entry['later_excess']:.1%}",
        f"{entry['load']['imbalance']:.2f}",
        f"{entry['later_load']['imbalance']:.2f}",
        f"{entry['later_load']['stream_imbalance']:.2f}",
        number(entry["time_to_first_token"]["p99"] * 1e3, 0),
        number(entry["time_per_output_token"]["p99"] * 1e3, 1),
        number(entry["decision_ms"]["p50"] * 1e3, 0),
        number(entry["decision_ms"]["p99"] * 1e3, 0),
        f"{entry['num_nodes']:,}",
        f"{entry['num_tree_tokens']:,}",
    ]


def _decision_row(entry: Mapping[str, Any]) -> list[str]:
    wall, cpu = entry["wall_ms"], entry["cpu_ms"]
    return [
        f"{entry['num_replicas']:,}",
        f"{entry['cached_tokens']:,}",
        f"{entry['held_tokens']:,}",
        f"{entry['num_nodes']:,}",
        number(entry["memory_bytes"] / 1e6, 0),
        f"{entry['num_decisions']:,}",
        *(number(times[name], 2) for times in (wall, cpu) for name in ("p50", "p99", "worst")),
    ]
