"""The decode benchmark's result, from its JSON form to a page for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from treeserve.bench.decode.clocks import (
    ATTENTION,
    HEAD,
    LINEAR,
    PLAN,
    REST,
    SAMPLING,
    SCHEDULER,
)
from treeserve.bench.decode.sides import CEILING, OFF, ON
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
    Column("prefix", 8),
    Column("batch", 7),
    Column("own", 6),
    Column("on tok/s", 12),
    Column("off tok/s", 12),
    Column("ceiling", 12),
    Column("on/off", 9),
    Column("bound", 9),
    Column("/ceiling", 10),
    Column("KV read on", 13),
    Column("KV read off", 13),
    Column("flags", 7),
)
_LEGEND = """\
Tokens per second of steady decoding, prefill not in it: windows of some steps of each side in turn,
to and fro, medians. One prefix is shared by the whole batch; own: tokens of each sample behind it
in the end. on: sharing where it pays; off: KV reused, but read per sample; ceiling: the same model
and scheduler with attention that costs nothing. KV read: tokens a step and layer. bound: what
sharing can gain while memory is the limit. Before the times, greedy tokens of on and off are
compared: they must be the same, but where two tokens are so close that rounding decides. Flags:
B above the bound; L sharing lost more than 3%; C above the ceiling.\
"""
_PARTS = {
    ATTENTION: "attn.",
    LINEAR: "linear",
    HEAD: "head",
    SAMPLING: "sampling",
    REST: "rest",
    PLAN: "plan",
    SCHEDULER: "sched.",
}
_PART_COLUMNS = (
    Column("prefix", 8),
    Column("batch", 7),
    Column("on tok/s", 10),
    Column("transf.", 9),
    Column("on/transf.", 11),
    Column("floor", 9),
    Column("/floor", 7),
    *(Column(name, 9 if name == "sampling" else 8) for name in _PARTS.values()),
)
_PART_LEGEND = """\
transf.: tokens per second of transformers' generate, the prefix in its cache beforehand and prefill
not in it, where --versus asks for it. floor: what the device could do at most if it read every
weight and every distinct token's K and V once, and made every product, at the rates measured here.
Then the shares of a step's time with sharing on, by clocks around its parts: attention, the layers'
matrix products, the output head, drawing tokens, the rest of the model, planning, scheduling.\
"""
_FLAG_LETTERS = {"above the bound": "B", "loss": "L", "above the ceiling": "C"}


def render_decode(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """Lines; those of text fit into 120 columns."""
    model = result["model"]
    lines = [
        machine_line(result),
        f"{model['name']}: {model['num_parameters']:,} parameters, {model['num_layers']} layers, "
        f"{model['num_heads']}/{model['num_kv_heads']} heads of {model['head_dim']}, "
        f"{result['dtype']}, {result['backend']} attention, planned by {result['costs']} costs",
        "",
        *render_table(_COLUMNS, [_row(case) for case in result["cases"]], style),
        "",
        *_LEGEND.splitlines(),
        "",
        *render_table(_PART_COLUMNS, [_parts(case) for case in result["cases"]], style),
        "",
        *_PART_LEGEND.splitlines(),
        _rates_line(result),
        *_not_timed(result),
        "",
        *_summary(result),
    ]
    return fit(lines, style)


def _row(case: Mapping[str, Any]) -> list[str]:
    names = [f"{case['prefix']:,}", f"{case['batch']:,}"]
    if not case["sides"]:
        return [*names, *[ABSENT] * (len(_COLUMNS) - len(names))]
    sides = case["sides"]
    flags = [x for key, x in _FLAG_LETTERS.items() if any(f.startswith(key) for f in case["flags"])]
    return [
        *names,
        str(case["own_tokens"]),
        *(number(sides[side]["tokens_per_second"]) for side in (ON, OFF, CEILING)),
        f"{case['speedup']:.2f}x",
        f"{case['bound']:.2f}x",
        percent(case["share_of_ceiling"]),
        *(f"{sides[side]['kv_tokens_read']:,}" for side in (ON, OFF)),
        "".join(flags),
    ]


def _parts(case: Mapping[str, Any]) -> list[str]:
    names = [f"{case['prefix']:,}", f"{case['batch']:,}"]
    if not case["sides"]:
        return [*names, *[ABSENT] * (len(_PART_COLUMNS) - len(names))]
    theirs = case["transformers_tokens_per_second"]
    shares = case["shares"]
    return [
        *names,
        number(case["tokens_per_second"]),
        ABSENT if theirs is None else number(theirs),
        ABSENT if theirs is None else f"{case['over_transformers']:.2f}x",
        number(case["floor_tokens_per_second"]),
        percent(case["share_of_floor"]),
        *(percent(shares[part]) if shares else ABSENT for part in _PARTS),
    ]


def _rates_line(result: Mapping[str, Any]) -> str:
    rates = result["measured_rates"]
    return (
        f"The device, with {result['threads']} threads: "
        f"{rates['bytes_per_second'] / 1e9:.1f} GB/s copying, "
        f"{rates['operations_per_second'] / 1e9:,.0f} GFLOP/s in {result['dtype']} products."
    )


def _not_timed(result: Mapping[str, Any]) -> Iterator[str]:
    entries = [
        f"- batch {case['batch']}, prefix {case['prefix']}: {case['status']}: {case['reason']}"
        for case in result["cases"]
        if case["reason"]
    ]
    entries += [
        f"- batch {case['batch']}, prefix {case['prefix']}: transformers left out: "
        f"{case['without_transformers']}"
        for case in result["cases"]
        if case["without_transformers"]
    ]
    entries += [f"- {name}: left out, for the time limit" for name in result["left_out"]]
    if entries:
        yield from ["", "Not timed:", *entries]


def _summary(result: Mapping[str, Any]) -> Iterator[str]:
    summary, cases = result["summary"], result["cases"]
    counts = {"WRONG": summary["num_wrong"], "FAILED": summary["num_failed"]}
    wrong = "".join(f", {count} {what}" for what, count in counts.items() if count)
    yield f"Summary: {summary['num_cases']} cases timed{wrong}, {summary['num_flagged']} flagged."
    yield f"- {_compared(cases)}"
    for change in summary["throughput_change"]:
        yield (
            f"- batch {change['batch']:,}: from {change['from_prefix']:,} to "
            f"{change['to_prefix']:,} tokens of prefix, tokens per second change by "
            f"{change[ON]:+.0%} with sharing, {change[OFF]:+.0%} without, "
            f"{change[CEILING]:+.0%} at the ceiling"
        )
    if summary["least_share_of_ceiling"] is not None:
        yield f"- at worst {summary['least_share_of_ceiling']:.0%} of the ceiling"


def _compared(cases: Sequence[Mapping[str, Any]]) -> str:
    equal = sum(case["num_compared"] for case in cases)
    parted = sum(case["num_parted"] for case in cases)
    return f"{equal:,} tokens of on and off compared and the same; {parted:,} samples parted"
