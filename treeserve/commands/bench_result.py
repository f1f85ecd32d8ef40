"""What the larger benchmarks do with a result: a table, JSON, a file; or show a saved one."""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.errors import ConfigError, TreeserveError

if TYPE_CHECKING:
    import torch

    from treeserve.bench.so_far import Watch
    from treeserve.bench.table import TableStyle
    from treeserve.commands.progress import ProgressLine

Render = Callable[[Mapping[str, Any], "TableStyle"], list[str]]


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """How the result is shown and kept, and how long measuring may take."""
    add = parser.add_argument_group("result").add_argument
    add("--json", action="store_true", help="one JSON object on stdout in place of the table")
    add("--markdown", action="store_true", help="tables as Markdown")
    add("--output", metavar="FILE", help="write the JSON object there too")
    add("--from", dest="source", metavar="FILE", help="show a result that --output wrote; no run")
    add(
        "--time-limit", type=float, metavar="SECONDS",
        help="about how long it may take: fewer rounds, and what is left out is said; "
        "default: as long as it takes",
    )  # fmt: skip


def add_going_on_option(parser: argparse.ArgumentParser) -> None:
    """For benchmarks that keep what is measured part by part; before add_result_options()."""
    parser.add_argument(
        "--go-on", action="store_true",
        help="keep what --output has of an earlier run and measure the rest: on the same machine, "
        "with the same threads, versions and options",
    )  # fmt: skip


def check_result_options(args: argparse.Namespace) -> None:
    """Raise ConfigError where they cannot be meant; before anything is measured."""
    if args.json and args.markdown:
        raise ConfigError("--markdown: not with --json; choose one")
    if args.time_limit is not None and not args.time_limit > 0:
        raise ConfigError(f"--time-limit: must be more than 0 seconds, got {args.time_limit:g}")
    if args.output is not None and not Path(args.output).absolute().parent.is_dir():
        raise ConfigError(f"--output: there is no folder {Path(args.output).parent}")


def show_result(args: argparse.Namespace, result: Mapping[str, Any], render: Render) -> None:
    """Print it and write it, as the options say.

    Raises:
        TreeserveError: The file cannot be written.
    """
    if args.json:
        print(json.dumps(result, allow_nan=False))
    else:
        print("\n".join(render(result, "markdown" if args.markdown else "text")))
    keep_result(args, result)


def keep_result(args: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Write it to --output, if that is given; what was there before is there until it is written.

    Raises:
        TreeserveError: The file cannot be written.
    """
    if args.output is None:
        return
    file = Path(args.output)
    is_device = file.exists() and not file.is_file()
    part = file if is_device else file.with_name(f"{file.name}.part")
    try:
        part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        if part is not file:
            part.replace(file)
    except OSError as error:
        raise TreeserveError(f"--output: cannot write {args.output}: {error.strerror}") from error


def read_result(path: str, benchmark: str, option: str = "--from") -> dict[str, Any]:
    """A result of this benchmark that --output wrote.

    Raises:
        ConfigError: It is not there, or something else.
    """
    try:
        result = json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{option}: {path} is not JSON: {error}") from error
    if not isinstance(result, dict) or result.get("benchmark") != benchmark:
        raise ConfigError(f"{option}: {path} is no result of `treeserve bench {benchmark}`")
    return result


def read_before(args: argparse.Namespace, benchmark: str) -> dict[str, Any] | None:
    """With --go-on, what --output has of an earlier run, if it has anything.

    Raises:
        ConfigError: There is no --output, or it is something else.
    """
    if not args.go_on:
        return None
    if args.output is None:
        raise ConfigError("--go-on: needs --output, the file that is gone on with")
    return read_result(args.output, benchmark, "--go-on") if Path(args.output).exists() else None


def watch_result(args: argparse.Namespace, progress: "ProgressLine") -> "Watch":
    """Shows how far a benchmark is, and writes the result so far to --output after each part."""
    from treeserve.bench.so_far import Watch

    return Watch(progress.start, progress.tell, partial(keep_result, args))


def resolve_bench_device(name: str, on_a_cpu: str) -> "torch.device":
    """The device; without CUDA the error says how to run on a CPU.

    Args:
        name: As the option says.
        on_a_cpu: A command that works without CUDA.
    """
    from treeserve.model import resolve_device

    try:
        return resolve_device(name)
    except ConfigError as error:
        raise ConfigError(f"--{error}; on a CPU: {on_a_cpu}") from error
