"""The options of benchmarks with one model: random weights in a known shape, or a checkpoint."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from treeserve.commands.bench_result import resolve_bench_device
from treeserve.commands.options import add_quantization_option
from treeserve.config import DtypeName, QuantizationName
from treeserve.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from treeserve.bench.decode.source import ModelSource

_SHAPES = ("llama-8b", "qwen2.5-0.5b", "qwen-0.5b", "mha-30m", "tiny")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, and on what it runs."""
    add = parser.add_argument
    add(
        "--shape", metavar="SHAPE",
        help=f"of random weights: {', '.join(_SHAPES)}, or a folder or file with a config.json; "
        "default: llama-8b on cuda, else tiny",
    )  # fmt: skip
    add("--model", help='a checkpoint instead: "embedded", a folder or a hub name')
    add(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="default: float32 for the shape tiny on a CPU, else bfloat16",
    )
    add("--device", default="auto", help="default: cuda where there is one, else cpu")
    add("--backend", choices=("torch", "cpu", "triton"), help="of attention; default: as serve")
    add_quantization_option(parser)
    add(
        "--plain-linear", action="store_true",
        help="leave linear layers as PyTorch has them, in place of packing them on a CPU",
    )  # fmt: skip


def resolve_model_device(args: argparse.Namespace, on_a_cpu: str) -> "torch.device":
    """The device on which the model that the options name is to run.

    Args:
        args: With what add_model_options() declares.
        on_a_cpu: A command that works without CUDA.

    Raises:
        ConfigError: There is no such device or shape, or they do not go together.
    """
    if args.shape is not None and args.model is not None:
        raise ConfigError("--shape: not with --model: a checkpoint has its own")
    if args.shape not in (None, *_SHAPES) and not Path(args.shape).exists():
        raise ConfigError(
            f"--shape: {args.shape!r} is not one of {', '.join(_SHAPES)}, nor a folder or file "
            "with a model's config.json"
        )
    _check_quantization(args)
    device = resolve_bench_device(args.device, on_a_cpu)
    backend = args.backend
    if backend is not None and (backend == "triton") != (device.type == "cuda"):
        right = "--backend triton" if device.type == "cuda" else "--backend torch"
        raise ConfigError(f"--backend: {backend} does not run on {device}; try {right}")
    return device


def model_source(args: argparse.Namespace, device: "torch.device") -> "ModelSource":
    """The model that the options name, not loaded yet."""
    from treeserve.bench.decode.source import ModelSource

    shape = args.shape or ("llama-8b" if device.type == "cuda" else "tiny")
    is_tiny = device.type == "cpu" and shape == "tiny"
    usual: DtypeName = "float32" if is_tiny else "bfloat16"
    if args.model is not None:
        usual = "auto"
    dtype: DtypeName = args.dtype or usual
    return ModelSource(
        name=shape if args.model is None else args.model,
        is_checkpoint=args.model is not None,
        dtype=dtype,
        device=str(device),
        quantization=_quantization(args),
        packs_linear=not args.plain_linear,
    )


def numbers_option(option: str, text: str) -> tuple[int, ...]:
    """Ascending, so that what is cached of a shorter prefix serves the longer ones.

    Raises:
        ConfigError: It is no list of numbers from 1 on.
    """
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is not a list of numbers like 1,4,16") from error
    if numbers[0] < 1:
        raise ConfigError(f"{option}: must be at least 1, got {numbers[0]}")
    return tuple(numbers)


def _quantization(args: argparse.Namespace) -> QuantizationName:
    chosen: QuantizationName = getattr(args, "quantization", "none")
    return chosen


def _check_quantization(args: argparse.Namespace) -> None:
    quantization = _quantization(args)
    if quantization == "none":
        return
    if args.versus is not None:
        raise ConfigError(
            f"--versus: not with --quantization {quantization}: transformers computes with the "
            "weights as they are"
        )
    if args.plain_linear:
        raise ConfigError(f"--plain-linear: not with --quantization {quantization}: it packs them")
