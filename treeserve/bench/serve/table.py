"""The service benchmark's result, from its JSON form to a page for people."""

from collections.abc import Iterator, Mapping
from typing import Any

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
    Column("workload", 10),
    Column("load", 8),
    Column("calls", 6),
    Column("refused", 8),
    Column("drawn/s", 8),
    Column("prompt/s", 9),
    Column("good/s", 7),
    Column("good", 5),
    Column("ttft ms 50/90/99", 17),
    Column("tpot ms 50/90/99", 17),
    Column("client", 7),
    Column("server", 7),
    Column("flags", 6),
)
_END_COLUMNS = (
    Column("workload", 10),
    Column("load", 8),
    Column("end to end ms 50/90/99", 24),
    Column("computed", 10),
    Column("messages/s", 12),
    Column("tokens/message", 16),
    Column("sent late ms p99", 18),
)
_LEGEND = """\
Load: /s is calls a second, at random times whether or not the server keeps up; str is streams that
are always open. Calls: due within the window, after the warm-up. drawn/s: tokens as they arrived;
prompt/s: prompt tokens of those calls. good: calls of which every sample kept both targets, a
second and of all. ttft, tpot: time to first token, counted from when the call was due, and time per
token after it, of every sample; percentiles. client, server: CPU time of each process, of one core.
computed: prompt tokens that no other call had computed. Flags: F calls failed or were wrong; G the
server went away; C the client may have been the limit.\
"""
_FLAG_LETTERS = {"failed": "F", "gone": "G", "client": "C"}


def render_serve(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """Lines; those of text fit into 120 columns."""
    stages = result["stages"]
    targets, server = result["targets"], result["server"]
    lines = [
        machine_line(result),
        f"{result['cores']} cores; door {server.get('door', 'grpc')}; server "
        f"{server['model'] or server['address']}",
        f"{result['seconds']:g} s after {result['warm_up_seconds']:g} s of warm-up, seed "
        f"{result['seed']}; targets: first token {targets['ttft_ms']:g} ms, then "
        f"{targets['tpot_ms']:g} ms a token",
        *(f"- {name}: {title}" for name, title in result["workloads"].items()),
        "",
    ]
    if stages:
        lines += [
            *render_table(_COLUMNS, [_row(stage) for stage in stages], style),
            "",
            *render_table(_END_COLUMNS, [_end_row(stage) for stage in stages], style),
            "",
            *_LEGEND.splitlines(),
        ]
    return fit([*lines, *_troubles(result), *_cost(result)], style)


def _row(stage: Mapping[str, Any]) -> list[str]:
    flags = stage["flags"]
    return [
        *_names(stage),
        f"{stage['calls']:,}",
        f"{stage['refused']:,}",
        number(stage["drawn_tokens_per_second"], 0),
        number(stage["prompt_tokens_per_second"], 0),
        number(stage["goodput"]),
        percent(stage["goodput_share"]),
        _three(stage["ttft_ms"], 0),
        _three(stage["tpot_ms"], 1),
        percent(stage["client"]["cpu_share"]),
        percent(stage["server_cpu_share"]),
        "".join(x for key, x in _FLAG_LETTERS.items() if any(f.startswith(key) for f in flags)),
    ]


def _end_row(stage: Mapping[str, Any]) -> list[str]:
    client = stage["client"]
    return [
        *_names(stage),
        _three(stage["end_to_end_ms"], 0),
        percent(stage["computed_share"]),
        number(client["messages_per_second"], 0),
        number(client["tokens_per_message"]),
        number(client["late_ms_p99"]),
    ]


def _names(stage: Mapping[str, Any]) -> list[str]:
    unit = "/s" if stage["mode"] == "open" else " str"
    return [stage["workload"], f"{stage['load']:g}{unit}"]


def _three(values: Mapping[str, float] | None, digits: int) -> str:
    return ABSENT if values is None else "/".join(number(v, digits) for v in values.values())


def _troubles(result: Mapping[str, Any]) -> Iterator[str]:
    for stage in result["stages"]:
        name = " ".join(_names(stage))
        for code, count in stage["statuses"].items():
            yield f"- {name}: {count} calls ended with {code}"
        for flag in stage["flags"]:
            yield f"- {name}: {flag}"
    for title in result["left_out"]:
        yield f"- {title}: left out"


def _cost(result: Mapping[str, Any]) -> Iterator[str]:
    cost = result["cost"]
    if cost is None:
        return
    rates = ", ".join(
        f"{side} {number(rate, 0)}" for side, rate in cost["tokens_per_second"].items()
    )
    yield ""
    yield (
        f"The service's own cost ({cost['workload']}, {cost['streams']} streams, "
        f"{cost['rounds']} rounds in turn of {cost['calls']} calls, medians, {cost['threads']} "
        f"PyTorch threads): tokens a second: {rates}"
    )
    yield (
        f"- through the socket {percent(cost['share_of_engine'])} of the engine alone "
        f"({percent(cost['share_of_engine_least'])} to {percent(cost['share_of_engine_most'])}); "
        f"aim {percent(cost['aim'])}; in process, with text {percent(cost['text_share_of_engine'])}"
    )
    cpu = ", ".join(f"{side} {number(us, 0)}" for side, us in cost["cpu_us_per_token"].items())
    yield f"- CPU time for a drawn token, in microseconds (socket: of the server): {cpu}"
    yield (
        f"- meanwhile the client took {percent(cost['client_cpu_share'])} of a core, the server "
        f"{percent(cost['server_cpu_share'])}"
    )
