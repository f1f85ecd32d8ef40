"""`treeserve bench modules`: prompt modules against full prefill and prefix caching."""

import argparse
from typing import Any

from treeserve.commands.bench_result import (
    add_going_on_option,
    add_result_options,
    check_result_options,
    read_before,
    read_result,
    resolve_bench_device,
    show_result,
    watch_result,
)
from treeserve.commands.options import require_at_least
from treeserve.commands.progress import ProgressLine
from treeserve.errors import ConfigError

_DESCRIPTION = """\
Time to the first token of one prompt whose text is in modules, computed in full, after a cached
prefix, and with the modules encoded; then many prompts at once that mix modules, against prefix
caching; then how far the embedded model's answers are from exact ones, with and without a scaffold.
Weights are random for times. What each side computed is checked before times are shown. The machine
should do nothing else.
With --output, what is measured is kept part by part, and --go-on leaves out what is there.

  treeserve bench modules --json
  treeserve bench modules --output modules.json --go-on
  treeserve bench modules --shape tiny --tokens 200,400 --prompts 8 --module-tokens 32
"""
_SHAPES = ("qwen-0.5b", "tiny", "llama-8b")
_LEAST = {
    "own_tokens": 1,
    "rounds": 1,
    "prompts": 0,
    "modules": 1,
    "module_tokens": 1,
    "imports": 1,
    "problems": 0,
    "examples": 2,
}


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "modules", help="prompt modules against full prefill", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--shape", choices=_SHAPES, default=_SHAPES[0], help="default: %(default)s")
    add("--tokens", default="1000,3000,5000", metavar="N,N,…", help="default: %(default)s")
    add("--device", default="cpu", help="default: %(default)s")
    add(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="default: float32 for the shape tiny, else bfloat16",
    )
    for name, default, text in (
        ("own-tokens", 50, "of each prompt"),
        ("rounds", 3, "of each length"),
        ("prompts", 32, "at once; 0: none"),
        ("modules", 16, "that they mix"),
        ("module-tokens", 64, "of each"),
        ("imports", 4, "modules of each prompt"),
        ("examples", 4, "modules before each problem"),
        ("problems", 20, "whose programs are scored; 0: none"),
    ):
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{text}; %(default)s")
    add_going_on_option(parser)
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and show what was found."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "modules")
    from treeserve.bench.modules.table import render_modules

    show_result(args, result, render_modules)
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    require_at_least(args, **_LEAST)
    if args.imports > args.modules:
        raise ConfigError(f"--imports: must be at most --modules, {args.modules}")
    if args.time_limit is not None:
        raise ConfigError("--time-limit: not for bench modules; give fewer --tokens and --rounds")
    lengths = _lengths(args.tokens)
    before = read_before(args, "modules")
    device = resolve_bench_device(args.device, "treeserve bench modules --device cpu")
    import torch

    from treeserve.bench.decode.models import make_random_model
    from treeserve.bench.modules.suite import ModulesOptions, run_modules

    options = ModulesOptions(
        lengths=lengths,
        own_tokens=args.own_tokens,
        rounds=args.rounds,
        num_prompts=args.prompts,
        num_modules=args.modules,
        module_tokens=args.module_tokens,
        imports=args.imports,
        num_examples=args.examples,
        num_problems=args.problems,
    )
    is_tiny = args.shape == "tiny"
    dtype: torch.dtype = getattr(torch, args.dtype or ("float32" if is_tiny else "bfloat16"))
    with ProgressLine() as progress:
        progress.start("making the model")
        model = make_random_model(args.shape, dtype, device)
        return run_modules(model, options, watch_result(args, progress), before)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"--tokens: {text!r} is not a list of numbers like 1000,5000") from None
    if lengths[0] < 5:
        raise ConfigError(f"--tokens: must be at least 5, one for each module, got {lengths[0]}")
    return lengths
