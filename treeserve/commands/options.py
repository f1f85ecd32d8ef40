"""Options that several commands share, and a parser whose errors are one line."""

import argparse
import difflib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, get_args

from treeserve.config import (
    BackendName,
    CalibrationMode,
    CudaGraphsMode,
    DtypeName,
    OverlapMode,
    PolicyName,
    QuantizationName,
    SharingMode,
)
from treeserve.errors import ConfigError

MODEL_OPTIONS = ("model", "dtype", "device", "backend", "quantization")
ENGINE_OPTIONS = (
    *MODEL_OPTIONS,
    "sharing",
    "num_pages",
    "page_size",
    "token_budget",
    "max_running",
    "policy",
    "reserve",
    "calibration",
    "cuda_graphs",
    "overlap",
)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, with what may have been meant, and exits with status 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Reject what is unknown here, where the options that may have been meant are known."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}{self._suggestion(unknown[0])}")
        return known, unknown

    def _suggestion(self, argument: str) -> str:
        name = argument.partition("=")[0]
        close = difflib.get_close_matches(name, self._option_string_actions, n=1)
        return f"; did you mean {close[0]}?" if close else ""


def package_version() -> str:
    """As installed, or "unknown" in a checkout that is not installed."""
    try:
        return version("treeserve")
    except PackageNotFoundError:
        return "unknown"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is computed; those that are not given are left out."""
    add = _adder(parser.add_argument_group("model"))
    add("--model", help='"embedded" (the default), a checkpoint folder, or a hub name')
    add("--dtype", choices=get_args(DtypeName), help="default: auto, as the checkpoint was saved")
    add("--device", help="auto (the default: cuda where there is one), cpu, cuda, cuda:1, …")
    add(
        "--backend",
        choices=get_args(BackendName),
        help="of attention; default: auto, triton on cuda; on a CPU cpu, a compiled kernel, for "
        "bfloat16 where it can be had, else torch; `treeserve doctor` says which",
    )
    add_quantization_option(parser)


def add_quantization_option(parser: argparse.ArgumentParser) -> None:
    """Of the weights; left out where it is not given."""
    parser.add_argument(
        "--quantization",
        choices=get_args(QuantizationName),
        default=argparse.SUPPRESS,
        help="of the linear layers' weights, at load; int8: for bfloat16 on a CPU, about twice as "
        "fast with few samples, with logits that differ a little; default: none",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Options of treeserve.config.EngineOptions; those that are not given are left out."""
    add_model_options(parser)
    add = _adder(parser.add_argument_group("engine"))
    add(
        "--sharing",
        choices=get_args(SharingMode),
        help="of attention; default: on, where it pays; always: wherever a token is shared; "
        "off: ordinary attention, every sample alone",
    )
    add(
        "--no-sharing",
        dest="sharing",
        action="store_const",
        const="off",
        help="the same as --sharing off",
    )
    add(
        "--num-pages",
        type=int,
        metavar="N",
        help="pages of the KV pool; default: 1 GiB on a CPU, 80%% of the free memory on cuda",
    )
    add("--page-size", type=int, metavar="TOKENS", help="tokens of a page; default: 16")
    add(
        "--token-budget",
        type=int,
        metavar="TOKENS",
        help="tokens of one step, at most; default: 1024",
    )
    add(
        "--max-running",
        type=int,
        metavar="N",
        help="samples that decode at once, at most; default: 256",
    )
    add(
        "--policy",
        choices=get_args(PolicyName),
        help="who is admitted next; default: tree, what shares first, with ageing; fcfs: first "
        "come, first served; priority: the highest first; longest-prefix: for comparison, starves",
    )
    add(
        "--reserve",
        type=float,
        metavar="PART",
        help="of the memory that a sample may need in the end, the part that is kept free for it; "
        "default: 0.25; 1: samples are never preempted",
    )
    add(
        "--calibration",
        choices=get_args(CalibrationMode),
        help="costs by which sharing is planned; measure: as `treeserve calibrate` has measured "
        "them, or measured now, in about ten seconds; default: auto, that on cuda, else what it "
        "has measured, if it has; off: built-in ones",
    )
    add(
        "--cuda-graphs",
        choices=get_args(CudaGraphsMode),
        help="launch steps in which every sample decodes as one CUDA graph each; default: auto, on "
        "cuda with the triton backend; off: kernel by kernel, which takes less memory",
    )
    add(
        "--overlap",
        choices=get_args(OverlapMode),
        help="on: the next step is decided and launched while the device works on this one; off: "
        "one after the other; default: auto, on with cuda and off with a CPU",
    )


def given_engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The engine options on the command line, by the names of EngineOptions."""
    return {name: getattr(args, name) for name in ENGINE_OPTIONS if hasattr(args, name)}


def _adder(group: "argparse._ArgumentGroup") -> Callable[..., None]:
    def add(option: str, **kwargs: Any) -> None:
        group.add_argument(option, default=argparse.SUPPRESS, **kwargs)

    return add


def reject_together(args: argparse.Namespace, names: Sequence[str], option: str, why: str) -> None:
    """Raise ConfigError if one of `names` was given beside `option`."""
    for name in names:
        if getattr(args, name, None) is not None:
            flag = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag}: not with {option}: {why}")


def require_at_least(args: argparse.Namespace, **least: int) -> None:
    """Raise ConfigError where one of these options, by name, is less; None was not given."""
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and value < lowest:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: must be at least {lowest}, got {value}")
