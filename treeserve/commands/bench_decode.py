"""`treeserve bench decode`: tokens per second of the whole engine against batch and prefix."""

import argparse
from pathlib import Path
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
    from transformers import PreTrainedModel

    from treeserve.model import LoadedModel

_DESCRIPTION = """\
Decoding end to end, with the real scheduler and runner: a batch of samples under one prefix. Three
sides in turn: sharing on; sharing off (KV reused, but read per sample); and the ceiling, the same
model with attention that costs nothing. Weights are random, in the shape of a known model, so no
checkpoint is needed. Greedy tokens of on and off are compared before anything is timed; if they
differ by more than rounding, that case shows no times and the exit status is 1. With --versus
transformers, its own `generate` is a fourth side, with the prefix in its cache beforehand. On a CPU
the table also says where the time of a step goes; the floor is worked out from the device's rates.

  treeserve bench decode                                  an 8B Llama's shape on cuda, tiny on a CPU
  treeserve bench decode --time-limit 180 --output gpu.json
  treeserve bench decode --device cpu --batch 1,16 --prefix 256,1024
  treeserve bench decode --shape qwen2.5-0.5b --batch 32 --prefix 2048 --versus transformers
  treeserve bench decode --model ./my-llama --batch 64 --prefix 4096
"""
_ON_A_CPU = "treeserve bench decode --device cpu --shape tiny"
_SHAPES = ("llama-8b", "qwen2.5-0.5b", "qwen-0.5b", "mha-30m", "tiny")
_BATCHES = {"cuda": "1,4,16,64,256,1024", "cpu": "1,4,16,64"}
_PREFIXES = {"cuda": "1024,4096,16384", "cpu": "256,1024"}


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "decode", help="tokens per second against batch and prefix", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add(
        "--shape", metavar="SHAPE",
        help=f"of random weights: {', '.join(_SHAPES)}, or a folder or file with a config.json; "
        "default: llama-8b on cuda, else tiny",
    )  # fmt: skip
    add("--model", help='a checkpoint instead: "embedded", a folder or a hub name')
    add("--batch", metavar="N,N,…", help=f"default: {_BATCHES['cuda']}; on a CPU to 64")
    add(
        "--prefix", metavar="TOKENS,…",
        help=f"shared; default: {_PREFIXES['cuda']}; on a CPU {_PREFIXES['cpu']}",
    )  # fmt: skip
    add(
        "--new-tokens", metavar="N,N,…",
        help="that each sample draws while it is timed; default: --steps times --rounds",
    )  # fmt: skip
    add("--versus", choices=("transformers",), help="time its `generate` beside treeserve")
    add("--steps", type=int, default=8, help="of one timed window; default: %(default)s")
    add("--rounds", type=int, default=8, help="windows of each side; default: %(default)s")
    add(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="default: float32 for the shape tiny on a CPU, else bfloat16",
    )
    add("--device", default="auto", help="default: cuda where there is one, else cpu")
    add("--backend", choices=("torch", "cpu", "triton"), help="of attention; default: as serve")
    add(
        "--calibration", default="auto", choices=get_args(CalibrationMode),
        help="costs that plans are made by, as for bench attention",
    )  # fmt: skip
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure every case and show what was found; 1 if sharing changed what was drawn."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "decode")
    from treeserve.bench.decode.suite import has_failed
    from treeserve.bench.decode.table import render_decode

    show_result(args, result, render_decode)
    return int(has_failed(result))


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    for name in ("steps", "rounds"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}: must be at least 1, got {getattr(args, name)}")
    if args.shape is not None and args.model is not None:
        raise ConfigError("--shape: not with --model: a checkpoint has its own")
    if args.shape not in (None, *_SHAPES) and not Path(args.shape).exists():
        raise ConfigError(
            f"--shape: {args.shape!r} is not one of {', '.join(_SHAPES)}, nor a folder or file "
            "with a model's config.json"
        )
    device = resolve_bench_device(args.device, _ON_A_CPU)
    batches = _numbers("--batch", _BATCHES[device.type] if args.batch is None else args.batch)
    prefixes = _numbers("--prefix", _PREFIXES[device.type] if args.prefix is None else args.prefix)
    backend = args.backend
    if backend is not None and (backend == "triton") != (device.type == "cuda"):
        right = "--backend triton" if device.type == "cuda" else "--backend torch"
        raise ConfigError(f"--backend: {backend} does not run on {device}; try {right}")
    from treeserve.bench.decode.case import Length, length_of
    from treeserve.bench.decode.suite import DecodeOptions, run_decode

    lengths = [Length(args.steps, args.rounds)]
    if args.new_tokens is not None:
        lengths = [length_of(n, args.steps) for n in _numbers("--new-tokens", args.new_tokens)]
    options = DecodeOptions(
        batches=batches,
        prefixes=prefixes,
        lengths=lengths,
        time_limit=args.time_limit,
        backend=backend,
        costs=args.calibration,
    )
    with ProgressLine() as progress:
        return run_decode(
            lambda: _load(args, device),
            options,
            progress.start,
            None if args.versus is None else lambda: _load_versus(args, device),
        )


def _load(args: argparse.Namespace, device: "torch.device") -> "LoadedModel":
    if args.model is not None:
        from treeserve.config import ModelConfig
        from treeserve.model import load_model

        return load_model(
            ModelConfig(model=args.model, dtype=args.dtype or "auto", device=str(device))
        )
    from treeserve.bench.decode.models import make_random_model

    return make_random_model(_shape(args, device), _dtype(args, device), device)


def _load_versus(args: argparse.Namespace, device: "torch.device") -> "PreTrainedModel":
    """The same weights once more, with the attention that transformers takes by itself."""
    if args.model is None:
        from treeserve.bench.decode.models import make_random_module

        return make_random_module(_shape(args, device), _dtype(args, device), device, "sdpa")
    from treeserve.config import ModelConfig
    from treeserve.model import load_module

    config = ModelConfig(model=args.model, dtype=args.dtype or "auto", device=str(device))
    return load_module(config, "sdpa")


def _shape(args: argparse.Namespace, device: "torch.device") -> str:
    return args.shape or ("llama-8b" if device.type == "cuda" else "tiny")


def _dtype(args: argparse.Namespace, device: "torch.device") -> "torch.dtype":
    import torch

    is_tiny = device.type == "cpu" and _shape(args, device) == "tiny"
    dtype: torch.dtype = getattr(torch, args.dtype or ("float32" if is_tiny else "bfloat16"))
    return dtype


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Ascending, so that what is cached of a shorter prefix serves the longer ones."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is not a list of numbers like 1,4,16") from error
    if numbers[0] < 1:
        raise ConfigError(f"{option}: must be at least 1, got {numbers[0]}")
    return tuple(numbers)
