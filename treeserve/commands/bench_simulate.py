"""`treeserve bench simulate`: traces through the real scheduler in virtual time, by policy."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

from treeserve.commands.progress import ProgressLine
from treeserve.config import PolicyName, SchedulerConfig, SharingMode
from treeserve.errors import ConfigError
from treeserve.simulation.device import PRESETS, PaperDevice, preset
from treeserve.simulation.result import Result
from treeserve.simulation.simulate import simulate
from treeserve.simulation.trace import TraceRequest, read_trace
from treeserve.simulation.workloads import TRACES_FOLDER, WORKLOADS

_DESCRIPTION = """\
Run traces of requests through the real scheduler, with virtual time in place of a model: a step
takes what a paper device would need for it. Nothing is computed, no GPU is needed, and every run
gives the same figures, so that policies, budgets and pool sizes can be compared before they are
tried. The host column is real: milliseconds of this machine that the scheduler took for a step.

  treeserve bench simulate                                   every trace under three policies
  treeserve bench simulate --trace documents --policy tree,fcfs --pages 12000
  treeserve bench simulate --trace mine.jsonl --device l4-8b --set flops_per_second=9e13
  treeserve bench simulate --trace chat --max-tokens 4096 --reserve 0.2 --json

Traces that come with treeserve:
  chat       one system prompt, conversations of several turns
  contest    few-shot examples, 120 problems, 32 to 128 samples of each
  documents  documents of 8 to 20 thousand tokens, questions to all of them at once
  agents     trees, 3 to 6 deep, that branch from generated text
  unshared   independent prompts
  reasoning  short questions, long answers that fill the pool
  overload   all of these but reasoning, from three tenants, more than the device can do

A trace of your own has one JSON object a line, with the fields of Mooncake's published traces:
  {"timestamp": 27482, "input_length": 700, "output_length": 52, "hash_ids": [46, 47]}
timestamp is in milliseconds; hash_ids name the prompt's blocks of 512 tokens: equal ids are equal
text. Further fields: block_size, num_samples (output_length may then be a list), max_tokens (what
was asked for), tenant, priority, deadline (milliseconds), id, and parent, parent_sample for a
request that goes on from what another one drew.
"""
_DEVICE_FIELDS = tuple(field.name for field in fields(PaperDevice))


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "simulate", help="policies on traces, in virtual time", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add(
        "--trace",
        action="append",
        metavar="NAME|FILE",
        help=f"{', '.join(WORKLOADS)}, all, or a file; may be repeated; default: all",
    )
    add(
        "--policy",
        default="tree,fcfs,longest-prefix",
        metavar="POLICY[,POLICY]",
        help="tree, fcfs, priority, longest-prefix; default: %(default)s",
    )
    add("--limit", type=int, metavar="N", help="only each trace's first N requests")
    add("--json", action="store_true", help="one JSON object for each trace and policy")
    add_device_options(parser)
    add_scheduler_options(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """The paper device, and what differs from its preset."""
    group = parser.add_argument_group("device")
    presets = ", ".join(PRESETS)
    group.add_argument("--device", default="h100-8b", help=f"{presets}; default: %(default)s")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"may be repeated; fields: {', '.join(_DEVICE_FIELDS)}",
    )


def add_scheduler_options(parser: argparse.ArgumentParser) -> None:
    """The scheduler's options that matter in a simulation."""
    group = parser.add_argument_group("scheduler")
    add = group.add_argument
    add("--pages", type=int, metavar="N", help="of the pool; default: what the device has room for")
    add("--page-size", type=int, default=16, metavar="TOKENS", help="default: %(default)s")
    add("--token-budget", type=int, default=2048, metavar="TOKENS", help="default: %(default)s")
    add("--max-running", type=int, default=256, metavar="N", help="default: %(default)s")
    add(
        "--reserve",
        type=float,
        metavar="SHARE",
        help="of a sample's max_tokens that admission keeps room for, 0 to 1; "
        "default: the scheduler's own",
    )
    add("--sharing", choices=get_args(SharingMode), default="on", help="default: %(default)s")
    add(
        "--max-tokens",
        type=int,
        metavar="N",
        help="what every request asks for, or as much as it draws if that is more; "
        "0: exactly as much; default: as in the trace",
    )


def run(args: argparse.Namespace) -> int:
    """Simulate every trace under every policy, and print a table for each trace."""
    if args.max_tokens is not None and args.max_tokens < 0:
        raise ConfigError("--max-tokens: must be at least 0")
    if args.limit is not None and args.limit < 1:
        raise ConfigError("--limit: must be at least 1")
    device = make_device(args)
    configs = [make_config(args, policy, device) for policy in args.policy.split(",")]
    traces = {name: requests[: args.limit] for name, requests in read_traces(args.trace).items()}
    with ProgressLine() as progress:
        for number, (name, requests) in enumerate(traces.items()):
            if not args.json:
                print("\n" * (number > 0) + table_head(name, requests, args.device, configs[0]))
            for config in configs:
                result = _simulate(args, name, requests, device, config, progress)
                progress.clear()
                line = _json(name, args.device, result) if args.json else table_line(result)
                print(line, flush=True)
    return 0


def read_traces(names: Sequence[str] | None) -> dict[str, list[TraceRequest]]:
    """By name or file, as they were given; all that come with treeserve if none is."""
    wanted = [n for given in names or ["all"] for n in (WORKLOADS if given == "all" else [given])]
    paths = {
        name: TRACES_FOLDER / f"{name}.jsonl" if name in WORKLOADS else Path(name)
        for name in wanted
    }
    for name, path in paths.items():
        if not path.exists():
            raise ConfigError(f"--trace: {name!r} is no file, and none of {', '.join(WORKLOADS)}")
    return {name: read_trace(path) for name, path in paths.items()}


def make_device(args: argparse.Namespace) -> PaperDevice:
    """The preset with what --set changes."""
    changes = {}
    for assignment in args.set:
        name, _, value = assignment.partition("=")
        if name not in _DEVICE_FIELDS:
            raise ConfigError(f"--set: {name!r} is not one of {', '.join(_DEVICE_FIELDS)}")
        try:
            changes[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--set: {assignment!r} is not FIELD=NUMBER") from error
        if not 0 <= changes[name] < float("inf"):
            raise ConfigError(f"--set: {assignment!r} must not be negative or infinite")
        if name.endswith("_per_second") and not changes[name]:
            raise ConfigError(f"--set: {assignment!r} must be more than 0")
    return replace(preset(args.device), **changes)


def make_config(args: argparse.Namespace, policy: str, device: PaperDevice) -> SchedulerConfig:
    """The scheduler's options; raises ConfigError where one is out of range."""
    if args.page_size < 1:
        raise ConfigError(f"page_size: must be at least 1, got {args.page_size}")
    given = {} if args.reserve is None else {"reserve": args.reserve}
    return SchedulerConfig(
        num_pages=device.num_pages(args.page_size) if args.pages is None else args.pages,
        page_size=args.page_size,
        token_budget=args.token_budget,
        max_running=args.max_running,
        sharing=args.sharing,
        policy=cast(PolicyName, policy),
        **given,
    )


def table_head(
    name: str, requests: Sequence[TraceRequest], device: str, config: SchedulerConfig
) -> str:
    """What is simulated, and the columns."""
    samples = sum(request.num_samples for request in requests)
    drawn = sum(sum(request.output_lengths) for request in requests)
    return (
        f"{name}: {len(requests):,} requests, {samples:,} samples, {drawn:,} tokens to draw; "
        f"{device}, {config.num_pages:,} pages of {config.page_size}\n"
        "                 first token, seconds     token   wait  tokens  prompt tokens    KV read"
        "  run-   pre-     end  host\n"
        "policy            mean    p50    p99        ms    p99      /s  computed cached    fewer"
        "  ning empted       s    ms"
    )


def table_line(result: Result) -> str:
    """One policy's row."""
    first, per_token = result.time_to_first_token, result.time_per_output_token
    fewer = result.kv_tokens_read_flat / max(1, result.kv_tokens_read)
    cached = (result.cached_tokens + result.shared_tokens) / max(1, result.prompt_tokens)
    line = (
        f"{result.policy:15} {first.mean:6.2f} {first.p50:6.2f} {first.p99:6.2f} "
        f"{per_token.mean * 1e3:9.1f} {result.queue_wait.p99:6.2f} "
        f"{result.output_tokens_per_second:7,.0f} {result.computed_tokens:9,d} {cached:6.1%} "
        f"{fewer:7.1f}x {result.mean_running_samples:5.0f} {result.preemptions:6d} "
        f"{result.makespan_seconds:7.1f} {result.host.step_ms_p50:5.2f}"
    )
    lost = result.num_requests - result.num_finished
    return f"{line}   {lost} past their deadlines or not sent" if lost else line


def _simulate(
    args: argparse.Namespace,
    name: str,
    requests: Sequence[TraceRequest],
    device: PaperDevice,
    config: SchedulerConfig,
    progress: ProgressLine,
) -> Result:
    def tell(num_ended: int, now: float) -> None:
        progress.tell(f"{num_ended} of {len(requests)} requests, {now:.1f} s of virtual time")

    progress.start(f"{name}, {config.policy}:")
    return simulate(requests, device, config, max_tokens=args.max_tokens, progress=tell)


def _json(name: str, device: str, result: Result) -> str:
    return json.dumps({"trace": name, "device": device, **asdict(result)})
