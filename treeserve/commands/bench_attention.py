"""`treeserve bench attention`: values against the reference, then times, beside other kernels."""

import argparse
from typing import TYPE_CHECKING, Any, get_args

from treeserve.commands.bench_result import (
    add_result_options,
    check_result_options,
    read_result,
    resolve_bench_device,
    show_result,
)
from treeserve.commands.progress import ProgressLine
from treeserve.config import CalibrationMode
from treeserve.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from treeserve.bench.attention.suite import SuiteOptions

_DESCRIPTION = """\
One layer's decode attention over trees: a batch of samples, one under each leaf. First the values
of every dtype, head size and group ratio are compared with the reference; then each tree is timed,
our shared plan in turn with our plain one, PyTorch's SDPA and FlexAttention, and FlashInfer where
it is installed, beside the floor that this device's memory and matrix units set. A side whose
values are wrong shows no times; if it is ours, the exit status is 1.

  treeserve bench attention                                      everything, on cuda
  treeserve bench attention --time-limit 300 --output gpu.json   in five minutes, kept as JSON
  treeserve bench attention --from gpu.json --markdown           that result as a page
  treeserve bench attention --backend torch --device cpu --tree '1,64 | 512,32'
  treeserve bench attention --backend cpu --device cpu --tree '1,64 | 512,32'     beside torch

A tree is its nodes per level | its tokens per level (the first ten are FastTree's, MLSys 2025), or
'comb 32 | 128,16': 32 leaves, each a node of 128 tokens further down the trunk, with 16 of its own.
"""
_ON_A_CPU = "treeserve bench attention --backend torch --device cpu --tree '1,64 | 512,32'"
_HEADS = ("16/1", "32/8", "32/32")
_DTYPES = ("bfloat16", "float16", "float32")


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "attention", help="one layer's attention over a tree", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--tree", action="append", metavar="TREE", help="may be repeated; default: 17 trees")
    add(
        "--heads", action="append", metavar="QUERY/KV",
        help=f"may be repeated; default: {', '.join(_HEADS)}",
    )  # fmt: skip
    add("--head-dim", type=int, default=128, help="default: %(default)s")
    add("--dtype", action="append", choices=_DTYPES, help="may be repeated; default: bfloat16")
    add(
        "--backend", default="triton", choices=("torch", "cpu", "triton"),
        help="cpu is timed in turn with torch; default: %(default)s",
    )  # fmt: skip
    add("--device", default="cuda", help="default: %(default)s")
    add("--rounds", type=int, default=20, help="timed runs of each side; default: %(default)s")
    add(
        "--cpu-time", action="store_true",
        help="time by the CPU time of the process, which other work changes little; with one "
        "thread on a CPU",
    )  # fmt: skip
    add(
        "--calibration", default="auto", choices=get_args(CalibrationMode),
        help="costs that plans are made by; measure: as `treeserve calibrate` would, where nothing "
        "is stored; default: auto, that on cuda, else what is stored; off: built-in ones",
    )  # fmt: skip
    add(
        "--values", default="all", choices=("all", "trees"),
        help="checked first; all: every dtype, head size and group ratio; trees: only those of the "
        "trees; default: %(default)s",
    )  # fmt: skip
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure every tree and show what was found; 1 if one of our values was wrong."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "attention")
    from treeserve.bench.attention.suite import has_failed
    from treeserve.bench.attention.table import render_attention

    show_result(args, result, render_attention)
    return int(has_failed(result))


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.rounds < 1:
        raise ConfigError(f"--rounds: must be at least 1, got {args.rounds}")
    device = resolve_bench_device(args.device, _ON_A_CPU)
    if (args.backend == "triton") != (device.type == "cuda"):
        right = "--backend triton" if device.type == "cuda" else "--backend torch or cpu"
        raise ConfigError(f"--backend: {args.backend} does not run on {device}; try {right}")
    if args.cpu_time:
        _check_cpu_time(device)
    options = _suite_options(args, device)
    from treeserve.bench.attention.suite import run_suite

    with ProgressLine() as progress:
        return run_suite(options, progress.start)


def _suite_options(args: argparse.Namespace, device: "torch.device") -> "SuiteOptions":
    from treeserve.bench.attention.suite import SuiteOptions
    from treeserve.bench.attention.trees import TREES, parse_tree

    trees = tuple(args.tree or TREES)
    for tree in trees:
        parse_tree(tree)
    costs: CalibrationMode = args.calibration
    return SuiteOptions(
        trees=trees,
        shapes=_shapes(args),
        backend=args.backend,
        device=device,
        rounds=args.rounds,
        time_limit=args.time_limit,
        costs=costs,
        checks_values=args.values == "all",
        by_cpu_time=args.cpu_time,
    )


def _shapes(args: argparse.Namespace) -> list[Any]:
    from treeserve.bench.attention.problem import Shape

    if args.backend == "triton":
        from treeserve.kernels.attention_config import HEAD_DIMS

        if args.head_dim not in HEAD_DIMS:
            sizes = ", ".join(map(str, HEAD_DIMS))
            raise ConfigError(f"--head-dim: {args.head_dim} is not one of {sizes}")
    if args.backend == "cpu":
        _check_for_cpu(args)
    if args.head_dim < 1:
        raise ConfigError(f"--head-dim: must be at least 1, got {args.head_dim}")
    return [
        Shape(*parse_heads(heads), args.head_dim, dtype)
        for dtype in args.dtype or ("bfloat16",)
        for heads in args.heads or _HEADS
    ]


def _check_cpu_time(device: "torch.device") -> None:
    import torch

    if device.type != "cpu":
        raise ConfigError(f"--cpu-time: is for a CPU, not for {device}")
    if torch.get_num_threads() != 1:
        raise ConfigError("--cpu-time: threads that wait would count; set OMP_NUM_THREADS=1")


def _check_for_cpu(args: argparse.Namespace) -> None:
    if args.head_dim < 1 or args.head_dim % 16:
        raise ConfigError(f"--head-dim: {args.head_dim} is no multiple of 16, for --backend cpu")
    others = [dtype for dtype in args.dtype or () if dtype != "bfloat16"]
    if others:
        raise ConfigError(f"--dtype: --backend cpu is for bfloat16, not for {others[0]}")


def parse_heads(heads: str) -> tuple[int, int]:
    """(query heads, KV heads).

    Raises:
        ConfigError: It is not of that form.
    """
    try:
        num_heads, num_kv_heads = (int(part) for part in heads.split("/"))
    except ValueError as error:
        raise ConfigError(f"--heads: {heads!r} is not QUERY/KV, 32/8 say") from error
    if min(num_heads, num_kv_heads) < 1 or num_heads % num_kv_heads:
        raise ConfigError(f"--heads: {heads!r}: KV heads must divide query heads")
    return num_heads, num_kv_heads
