"""`treeserve bench modules`: prompt modules against full prefill and prefix caching."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from treeserve.commands.bench_result import (
    add_result_options,
    check_result_options,
    keep_result,
    read_result,
    resolve_bench_device,
    show_result,
)
from treeserve.commands.progress import ProgressLine
from treeserve.errors import ConfigError

_DESCRIPTION = """\
Time to the first token of one prompt whose text is in modules, computed in full, after a cached
prefix, and with the modules encoded; then many prompts at once that mix modules, against prefix
caching; then how far the embedded model's answers are from exact ones, with and without a scaffold.
Weights are random for times. What each side computed is checked before times are shown. The machine
should do nothing else. With --output, what is measured is kept part by part, and --go-on leaves out
what is there.

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
    add("--go-on", action="store_true", help="keep the parts that --output has of an earlier run")
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
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and show what was found."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "modules")
    from treeserve.bench.modules.table import render_modules

    show_result(args, result, render_modules)
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    for name, least in _LEAST.items():
        if getattr(args, name) < least:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option}: must be at least {least}, got {getattr(args, name)}")
    if args.imports > args.modules:
        raise ConfigError(f"--imports: must be at most --modules, {args.modules}")
    if args.time_limit is not None:
        raise ConfigError("--time-limit: not for bench modules; give fewer --tokens and --rounds")
    lengths = _lengths(args.tokens)
    before = _before(args)
    device = resolve_bench_device(args.device, "treeserve bench modules --device cpu")
    import torch

    from treeserve.bench.decode.models import make_random_model
    from treeserve.bench.modules.answers import measure_answers
    from treeserve.bench.modules.suite import ModulesOptions, Watch, run_modules

    options = ModulesOptions(
        lengths=lengths,
        own_tokens=args.own_tokens,
        rounds=args.rounds,
        num_prompts=args.prompts,
        num_modules=args.modules,
        module_tokens=args.module_tokens,
        imports=args.imports,
    )
    is_tiny = args.shape == "tiny"
    dtype: torch.dtype = getattr(torch, args.dtype or ("float32" if is_tiny else "bfloat16"))
    with ProgressLine() as progress:
        answers = None
        if args.problems and not _has_answers(before, args):
            answers = measure_answers(args.examples, args.problems, progress.start)
        progress.start("making the model")
        model = make_random_model(args.shape, dtype, device)
        watch = Watch(progress.start, partial(keep_result, args))
        return run_modules(model, options, answers, watch, before)


def _before(args: argparse.Namespace) -> dict[str, Any] | None:
    """What --output has of an earlier run."""
    if not args.go_on:
        return None
    if args.output is None:
        raise ConfigError("--go-on: needs --output, the file that is gone on with")
    return read_result(args.output, "modules", "--go-on") if Path(args.output).exists() else None


def _has_answers(before: dict[str, Any] | None, args: argparse.Namespace) -> bool:
    """Whether those of an earlier run are of as many problems and examples."""
    found = None if before is None else before["answers"]
    if found is None:
        return False
    return (found["problems"], found["examples"]) == (args.problems, args.examples)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"--tokens: {text!r} is not a list of numbers like 1000,5000") from None
    if lengths[0] < 5:
        raise ConfigError(f"--tokens: must be at least 5, one for each module, got {lengths[0]}")
    return lengths
