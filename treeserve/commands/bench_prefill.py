"""`treeserve bench prefill`: an unshared prompt's prefill, beside transformers' forward pass."""

import argparse
from typing import Any

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
from treeserve.config import DEFAULT_TOKEN_BUDGET

_DESCRIPTION = """\
The prefill of prompts that share nothing: the whole engine, and with --versus transformers its own
forward pass in turn with it, with the same weights. What is likeliest behind a prompt is compared
before a time is shown; if it differs by more than rounding, the exit status is 1. On a CPU the
table also says where the time goes.
With --output, what is measured is kept part by part, and --go-on leaves out what is there.

  treeserve bench prefill --shape qwen2.5-0.5b --tokens 512,2048,8192 --versus transformers
  treeserve bench prefill --model ./my-llama --tokens 4096 --token-budget 2048
"""
_LENGTHS = "512,2048"


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "prefill", help="an unshared prompt's prefill", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--tokens", metavar="N,N,…", default=_LENGTHS, help="of a prompt; default: %(default)s")
    add("--rounds", type=int, default=5, help="prompts of each side; default: %(default)s")
    add(
        "--token-budget", type=int, default=DEFAULT_TOKEN_BUDGET, metavar="ROWS",
        help="of a step, as for serve; default: %(default)s",
    )  # fmt: skip
    add("--versus", choices=("transformers",), help="time its forward pass in turn")
    add_model_options(parser)
    add_going_on_option(parser)
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure every length and show what was found; 1 if the sides' logits differ."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "prefill")
    from treeserve.bench.prefill.suite import has_failed
    from treeserve.bench.prefill.table import render_prefill

    show_result(args, result, render_prefill)
    return int(has_failed(result))


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    require_at_least(args, rounds=1, token_budget=1)
    lengths = numbers_option("--tokens", args.tokens)
    device = resolve_model_device(args, "treeserve bench prefill --device cpu --shape tiny")
    before = read_before(args, "prefill")
    from treeserve.bench.prefill.suite import PrefillOptions, run_prefill

    options = PrefillOptions(
        lengths=lengths,
        rounds=args.rounds,
        token_budget=args.token_budget,
        time_limit=args.time_limit,
        backend=args.backend,
        versus=args.versus is not None,
    )
    with ProgressLine() as progress:
        watch = watch_result(args, progress)
        return run_prefill(model_source(args, device), options, watch, before)
