"""The prefill benchmark's result, from its JSON form to a page for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from treeserve.bench.decode.profile_table import PARTS
from treeserve.bench.table import (
    ABSENT,
    Column,
    TableStyle,
    fit,
    machine_line,
    number,
    percent,
    render_table,
)

_COLUMNS = (
    Column("tokens", 8),
    Column("ms", 10),
    Column("tok/s", 9),
    Column("transf. ms", 12),
    Column("tok/s", 9),
    Column("on/transf.", 12),
    Column("rounds", 8),
)
_PART_COLUMNS = (
    Column("tokens", 8),
    *(Column(name, len(name) + 3) for name in PARTS.values()),
)
_LEGEND = """\
A prompt that nobody has computed yet, from its tokens to the one drawn behind them: by the engine,
in steps of some rows, and by one forward pass of transformers that fills a cache, each prompt new,
in turn, to and fro, medians. Before the times, the likeliest tokens behind one prompt are compared.
Then the shares of a prefill's time in the engine, by clocks around its parts, as for bench decode.\
"""


def render_prefill(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """Lines; those of text fit into 120 columns."""
    model, cases = result["model"], result["cases"]
    lines = [
        machine_line(result),
        f"{model['name']}: {model['num_parameters']:,} parameters, {result['dtype']}, "
        f"{result['backend']} attention, {result['linear_layers']} linear layers, steps of "
        f"{result['token_budget']:,} rows, {result['threads']} threads",
        "",
        *render_table(_COLUMNS, [_row(case) for case in cases], style),
        "",
        *render_table(_PART_COLUMNS, [_parts(case) for case in cases], style),
        "",
        *_LEGEND.splitlines(),
        *_not_timed(result),
    ]
    return fit(lines, style)


def _row(case: Mapping[str, Any]) -> list[str]:
    ratio = case["over_transformers"]
    return [
        f"{case['tokens']:,}",
        _milliseconds(case["seconds"]),
        number(case["tokens_per_second"]),
        _milliseconds(case["transformers_seconds"]),
        number(case["transformers_tokens_per_second"]),
        ABSENT if ratio is None else f"{ratio:.2f}x",
        str(case["rounds"]),
    ]


def _parts(case: Mapping[str, Any]) -> list[str]:
    seconds = case["part_seconds"]
    whole = sum(seconds.values())
    shares = [percent(seconds[part] / whole) if seconds else ABSENT for part in PARTS]
    return [f"{case['tokens']:,}", *shares]


def _milliseconds(seconds: float | None) -> str:
    return ABSENT if seconds is None else f"{seconds * 1e3:,.1f}"


def _not_timed(result: Mapping[str, Any]) -> Iterator[str]:
    entries = [
        f"- {case['tokens']:,} tokens: {case['status']}: {case['reason']}"
        for case in result["cases"]
        if case["reason"]
    ]
    entries += [f"- {name}: left out, for the time limit" for name in result["left_out"]]
    if entries:
        yield from ["", "Not timed:", *entries]
