"""The decode benchmark's result, from its JSON form to a page for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from treeserve.bench.decode.profile_table import PARTS
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
_OTHERS_COLUMNS = (
    Column("prefix", 7),
    Column("batch", 6),
    Column("on tok/s", 10),
    Column("generate", 10),
    Column("on/gen.", 9),
    Column("batching", 10),
    Column("on/bat.", 9),
    Column("floor", 8),
    Column("/floor", 8),
    Column("weights", 9),
    Column("pool", 7),
    Column("program", 9),
    Column("peak", 7),
    Column("above", 7),
)
_OTHERS_LEGEND = """\
generate: tokens per second of transformers' `generate`, and batching: of its continuous batching,
the prefix in its cache beforehand and prefill not in it, where --versus asks for them. floor: what
the device could do at most if it read every weight and every distinct token's K and V once, and
made every product, at the rates measured here. MB of weights, each once, and of the K and V that
the case takes. Where --memory asks for it, MB of a process that does this case alone: program,
before it loads the model, for Python, PyTorch and transformers; peak, at most, the program in it;
above: what the peak has above weights and pool.\
"""
_PART_COLUMNS = (
    Column("prefix", 8),
    Column("batch", 7),
    *(Column(name, len(name) + 3) for name in PARTS.values()),
)
_PART_LEGEND = """\
Shares of a step's time with sharing on, by clocks around its parts: attention, the layers' matrix
products, the output head, norms, the rest of the model (embeddings, rotations, activations, sums),
drawing tokens, the step's arrays, planning, scheduling. --profile shows milliseconds.\
"""
_FLAG_LETTERS = {"above the bound": "B", "loss": "L", "above the ceiling": "C"}


def render_decode(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """Lines; those of text fit into 120 columns."""
    model = result["model"]
    lines = [
        machine_line(result),
        f"{model['name']}: {model['num_parameters']:,} parameters, {model['num_layers']} layers, "
        f"{model['num_heads']}/{model['num_kv_heads']} heads of {model['head_dim']}, "
        f"{result['dtype']}, {result['backend']} attention, {result['linear_layers']} linear "
        f"layers, planned by {result['costs']} costs",
        "",
        *render_table(_COLUMNS, [_row(case) for case in result["cases"]], style),
        "",
        *_LEGEND.splitlines(),
        "",
        *render_table(_OTHERS_COLUMNS, [_others(case) for case in result["cases"]], style),
        "",
        *_OTHERS_LEGEND.splitlines(),
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


def _others(case: Mapping[str, Any]) -> list[str]:
    names = [f"{case['prefix']:,}", f"{case['batch']:,}"]
    if not case["sides"]:
        return [*names, *[ABSENT] * (len(_OTHERS_COLUMNS) - len(names))]
    return [
        *names,
        number(case["tokens_per_second"]),
        number(case["transformers_tokens_per_second"]),
        _times(case["over_transformers"]),
        number(case["transformers_batching_tokens_per_second"]),
        _times(case["over_transformers_batching"]),
        number(case["floor_tokens_per_second"]),
        percent(case["share_of_floor"]),
        *(_megabytes(case[f"{name}_bytes"]) for name in ("weights", "pool", "program", "peak")),
        percent(case["over_memory"]),
    ]


def _parts(case: Mapping[str, Any]) -> list[str]:
    shares = case["shares"]
    return [
        f"{case['prefix']:,}",
        f"{case['batch']:,}",
        *(percent(shares[part]) if shares else ABSENT for part in PARTS),
    ]


def _times(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:.2f}x"


def _megabytes(num_bytes: int | None) -> str:
    return ABSENT if num_bytes is None else f"{num_bytes / 1e6:,.0f}"


def _rates_line(result: Mapping[str, Any]) -> str:
    rates = result["measured_rates"]
    return (
        f"The device, with {result['threads']} threads: "
        f"{rates['bytes_per_second'] / 1e9:.1f} GB/s copying, "
        f"{rates['operations_per_second'] / 1e9:,.0f} GFLOP/s in {result['dtype']} products."
    )


def _not_timed(result: Mapping[str, Any]) -> Iterator[str]:
    entries = []
    for case in result["cases"]:
        name = f"- batch {case['batch']}, prefix {case['prefix']}"
        if case["reason"]:
            entries.append(f"{name}: {case['status']}: {case['reason']}")
        entries += [
            f"{name}: {side.replace('_', ' ')} left out: {reason}"
            for side, reason in case["without"].items()
        ]
        if case["without_memory"]:
            entries.append(f"{name}: peak memory left out: {case['without_memory']}")
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
