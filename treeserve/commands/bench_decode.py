"""`treeserve bench decode`: tokens per second of the whole engine against batch and prefix."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from treeserve.commands.bench_model import (
    add_model_options,
    model_source,
    numbers_option,
    resolve_model_device,
)
from treeserve.commands.bench_result import (
    add_going_on_option,
    add_result_options,
    check_result_options,
    read_before,
    read_result,
    show_result,
    watch_result,
)
from treeserve.commands.options import require_at_least
from treeserve.commands.progress import ProgressLine
from treeserve.config import CalibrationMode
from treeserve.errors import ConfigError

if TYPE_CHECKING:
    from treeserve.bench.table import TableStyle

_DESCRIPTION = """\
Decoding end to end, with the real scheduler and runner: a batch of samples under one prefix. Three
sides in turn: sharing on; sharing off (KV reused, but read per sample); and the ceiling, the same
model with attention that costs nothing. Weights are random, in the shape of a known model, so no
checkpoint is needed. Greedy tokens of on and off are compared before anything is timed; if they
differ by more than rounding, that case shows no times and the exit status is 1. With --versus
transformers, its own `generate` and its continuous batching are sides too, with the prefix in their
caches beforehand. On a CPU the table also says where the time of a step goes; the floor is worked
out from the device's rates.
With --output, what is measured is kept part by part, and --go-on leaves out what is there.

  treeserve bench decode                                  an 8B Llama's shape on cuda, tiny on a CPU
  treeserve bench decode --time-limit 180 --output gpu.json
  treeserve bench decode --device cpu --batch 1,16 --prefix 256,1024
  treeserve bench decode --shape qwen2.5-0.5b --batch 32 --prefix 2048 --versus transformers
  treeserve bench decode --shape qwen2.5-0.5b --batch 128 --prefix 2048 --profile --memory
  treeserve bench decode --model ./my-llama --batch 64 --prefix 4096 --output run.json --go-on
"""
_ON_A_CPU = "treeserve bench decode --device cpu --shape tiny"
_BATCHES = {"cuda": "1,4,16,64,256,1024", "cpu": "1,4,16,64"}
_PREFIXES = {"cuda": "1024,4096,16384", "cpu": "256,1024"}


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "decode", help="tokens per second against batch and prefix", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add_model_options(parser)
    add("--batch", metavar="N,N,…", help=f"default: {_BATCHES['cuda']}; on a CPU to 64")
    add(
        "--prefix", metavar="TOKENS,…",
        help=f"shared; default: {_PREFIXES['cuda']}; on a CPU {_PREFIXES['cpu']}",
    )  # fmt: skip
    add(
        "--new-tokens", metavar="N,N,…",
        help="that each sample draws while it is timed; default: --steps times --rounds",
    )  # fmt: skip
    add("--versus", choices=("transformers",), help="time it beside treeserve")
    add("--memory", action="store_true", help="measure the peak, in a process for each case")
    add("--profile", action="store_true", help="show milliseconds of each part of a step")
    add("--steps", type=int, default=8, help="of one timed window; default: %(default)s")
    add("--rounds", type=int, default=8, help="windows of each side; default: %(default)s")
    add(
        "--calibration", default="auto", choices=get_args(CalibrationMode),
        help="costs that plans are made by, as for bench attention",
    )  # fmt: skip
    add_going_on_option(parser)
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure every case and show what was found; 1 if sharing changed what was drawn."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "decode")
    from treeserve.bench.decode.suite import has_failed

    show_result(args, result, partial(_render, args.profile))
    return int(has_failed(result))


def _render(profile: bool, result: Mapping[str, Any], style: "TableStyle") -> list[str]:
    from treeserve.bench.decode.profile_table import render_profile
    from treeserve.bench.decode.table import render_decode

    return [*render_decode(result, style), *(render_profile(result, style) if profile else ())]


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    require_at_least(args, steps=1, rounds=1)
    device = resolve_model_device(args, _ON_A_CPU)
    batches = numbers_option("--batch", _BATCHES[device.type] if args.batch is None else args.batch)
    prefixes = numbers_option(
        "--prefix", _PREFIXES[device.type] if args.prefix is None else args.prefix
    )
    if args.memory and device.type != "cpu":
        raise ConfigError("--memory: measures a process's own memory, so it is for --device cpu")
    before = read_before(args, "decode")
    from treeserve.bench.decode.case import Length, length_of
    from treeserve.bench.decode.suite import DecodeOptions, run_decode

    lengths = [Length(args.steps, args.rounds)]
    if args.new_tokens is not None:
        lengths = [
            length_of(n, args.steps) for n in numbers_option("--new-tokens", args.new_tokens)
        ]
    options = DecodeOptions(
        batches=batches,
        prefixes=prefixes,
        lengths=lengths,
        time_limit=args.time_limit,
        backend=args.backend,
        costs=args.calibration,
        versus=args.versus is not None,
        memory=args.memory,
    )
    with ProgressLine() as progress:
        watch = watch_result(args, progress)
        return run_decode(model_source(args, device), options, watch, before)
