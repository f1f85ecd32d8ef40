"""The attention benchmark's result, from its JSON form to a page for people."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from treeserve.bench.attention.trees import short_tree
from treeserve.bench.table import (
    ABSENT,
    MICROSECOND,
    Column,
    TableStyle,
    fit,
    machine_line,
    number,
    percent,
    render_table,
)

_TREE_WIDTH = 28
_COLUMNS = (
    Column("tree: nodes | tokens", _TREE_WIDTH),
    Column("rows", 5),
    Column("plan", 8),
    Column("floor", 8),
    Column("shared", 8),
    Column("eager", 8),
    Column("/floor", 7),
    Column("plain", 8),
    Column("SDPA", 9),
    Column("Flex", 8),
    Column("FI dec", 8),
    Column("FI casc", 8),
    Column("flags", 6),
)
_NAMES = {
    "plain": "our plain plan",
    "torch_backend": "our torch backend",
    "sdpa": "PyTorch's fused attention (SDPA)",
    "flex": "FlexAttention",
    "flashinfer_decode": "FlashInfer decode (FI dec)",
    "flashinfer_cascade": "FlashInfer cascade (FI casc)",
}
_TIMED_IN_COLUMNS = ("plain", "sdpa", "flex", "flashinfer_decode", "flashinfer_cascade")
_FLAG_LETTERS = {"loss": "L", "above the bound": "B", "below the floor": "F"}
_LEGEND = """\
Times are microseconds of one layer's decode attention: medians, all sides in turn, the last-level
cache flushed before each. shared: our plan, sharing where it pays; plain: our kernels, sharing off.
The other sides find their KV gathered, packed or paged beforehand, and write no new token; ours do.
{mode}
plan: the host's time once a step, for all layers, to plan anew; the JSON has that of a plan that is
carried on (carried_plan_seconds). /floor: the floor's share of the shared time. The floor is the
larger of two, measured in this run: bytes over the rate of a large copy, operations over that of a
large product.
{absent}: not timed, wrong values or cannot run, as said below. Flags: L sharing lost more than 3%;
B a ratio is above what sharing can gain, (P + S) / (P / B + S) for one prefix; F below the floor.\
"""
_GRAPH_MODE = "All but eager are the device's own time, replayed as a CUDA graph."
_EAGER_MODE = "On a CPU there is one time: of the call."


def render_attention(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """Lines; those of text fit into 120 columns."""
    lines = [*_head(result), ""]
    for _, cases in groupby(result["cases"], key=_shape_of):
        several = list(cases)
        lines += [_shape_title(result, several[0]), ""]
        lines += [*render_table(_COLUMNS, [_row(case) for case in several], style), ""]
    on_cuda = result["device"]["type"] == "cuda"
    mode = _GRAPH_MODE if on_cuda else _EAGER_MODE
    lines += _LEGEND.format(mode=mode, absent=ABSENT).splitlines()
    for title, entries in (
        ("Not timed", list(_reasons(result["cases"]))),
        ("Flags", [_flag_line(case, flag) for case in result["cases"] for flag in case["flags"]]),
        ("Broke off", [f"{error['case']}: {error['error']}" for error in result["errors"]]),
        ("Left out, for the time limit", _left_out(result)),
    ):
        lines += _list(title, entries)
    return fit([*lines, "", *_summary(result["summary"])], style)


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    yield machine_line(result)
    if result.get("clock") == "cpu":
        yield "times are CPU time of the process, which has one thread"
    for dtype, rates in result["rates"].items():
        yield (
            f"a large copy moves {rates['bytes_per_second'] / 1e9:,.0f} GB/s; a large {dtype} "
            f"product does {rates['operations_per_second'] / 1e12:,.3g} Tflop/s"
        )
    yield from _values(result["values"])


def _values(values: Mapping[str, Any] | None) -> Iterator[str]:
    if values is None:
        return
    checked, failed, left_out = values["num_checked"], values["failed"], values["left_out"]
    line = f"values: {checked} kinds of attention checked against float64, shared plan and plain; "
    yield line + (f"{len(failed)} WRONG" if failed else "all right")
    for result in failed:
        error = "" if result["error"] is None else f" by {result['error']:.1e}"
        yield f"  wrong{error}: {result['case']} {result['reason']}".rstrip()
    if left_out:
        yield f"  {len(left_out)} kinds left out, for the time limit (the JSON names them)"


def _shape_of(case: Mapping[str, Any]) -> tuple[Any, ...]:
    return case["heads"], case["head_dim"], case["dtype"]


def _shape_title(result: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    shape = f"heads {case['heads']} of {case['head_dim']}, {case['dtype']}"
    return f"{shape}, {result['backend']} backend; planned by {result['costs'][shape]} costs"


def _row(case: Mapping[str, Any]) -> list[str]:
    sides = case["sides"]
    return [
        short_tree(case["tree"], _TREE_WIDTH),
        str(case["rows"]),
        _microseconds(case["plan_seconds"]),
        _microseconds(case["floor_seconds"]),
        _time(sides.get("shared")),
        _microseconds(sides["shared"]["eager_seconds"]),
        percent(case["share_of_floor"]),
        *(_time(sides.get(name)) for name in _TIMED_IN_COLUMNS),
        "".join(letter for flag, letter in _FLAG_LETTERS.items() if _has(case, flag)),
    ]


def _time(side: Mapping[str, Any] | None) -> str:
    if side is None or side["status"] != "timed":
        return ABSENT
    graph = side["graph_seconds"]
    return _microseconds(side["eager_seconds"] if graph is None else graph)


def _microseconds(seconds: float | None) -> str:
    return number(None if seconds is None else seconds / MICROSECOND)


def _has(case: Mapping[str, Any], flag: str) -> bool:
    return any(found.startswith(flag) for found in case["flags"])


def _reasons(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each reason once, with the trees that it holds for."""
    where: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for name, side in case["sides"].items():
            if side["reason"]:
                trees = where.setdefault((name, side["reason"]), [])
                trees.append(f"{short_tree(case['tree'], _TREE_WIDTH)} ({case['heads']})")
    for (name, reason), trees in where.items():
        which = "every case" if len(trees) == len(cases) else "; ".join(trees[:3])
        more = f" and {len(trees) - 3} more" if 3 < len(trees) < len(cases) else ""
        yield f"{_NAMES.get(name, name)}: {reason}: {which}{more}"


def _flag_line(case: Mapping[str, Any], flag: str) -> str:
    return f"{short_tree(case['tree'], _TREE_WIDTH)} ({case['heads']}): {flag}"


def _left_out(result: Mapping[str, Any]) -> list[str]:
    return list(result["left_out"])


def _list(title: str, entries: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"- {entry}" for entry in entries)] if entries else []


def _summary(summary: Mapping[str, Any]) -> Iterator[str]:
    wrong = f", {summary['num_wrong']} of them WRONG" if summary["num_wrong"] else ""
    yield f"Summary: {summary['num_cases']} cases{wrong}, {summary['num_flagged']} flagged."
    for title, means in (
        ("FastTree's ten trees", summary["matrix"]),
        ("all trees", summary["all"]),
    ):
        share = means["share_of_floor"]
        if share is None:
            continue
        yield (
            f"- {title}: the floor is {share['geometric_mean']:.0%} of the shared plan's time "
            f"(geometric mean of {share['num_cases']}; {share['least']:.0%} to {share['most']:.0%})"
        )
        for name, ratio in means["ratios"].items():
            yield (
                f"  - {_NAMES[name]} takes {ratio['geometric_mean']:.2f}x the shared plan's time "
                f"({ratio['num_cases']} cases; {ratio['least']:.2f}x to {ratio['most']:.2f}x)"
            )
    loss = summary["never_a_loss"]
    if loss is not None:
        yield (
            f"- where sharing must not lose (batch 1, short prefixes, nothing shared; "
            f"{loss['num_cases']} cases) it takes at"
        )
        yield (
            f"  worst {loss['worst_times_as_long']:.3f}x the plain plan's time: {loss['tree']}, "
            f"heads {loss['heads']}, {loss['dtype']}"
        )
