"""`treeserve calibrate`: measures what attention costs here and stores it for later engines."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.commands.options import add_model_options, given_engine_options
from treeserve.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    import torch

    from treeserve.calibration.record import Calibration
    from treeserve.calibration.subject import Subject

_DESCRIPTION = """\
Measure what attention over shared text costs on this device, for this model's heads, and store it:
engines that start afterwards plan by it. Without it they plan by built-in costs, which are another
machine's. Run it once per machine and model, while the machine does nothing else.

  treeserve calibrate                                  the embedded model
  treeserve calibrate --model ./my-llama --dtype bfloat16
  treeserve calibrate --show                           what is stored; measures nothing
  treeserve serve --calibration off                    plan by the built-in costs all the same

What is stored holds for this device, number of threads, backend, dtype and shape of the model, and
for these versions of torch, triton and treeserve; anything else is measured anew. It is stored in
$TREESERVE_CACHE, else $XDG_CACHE_HOME/treeserve, else ~/.cache/treeserve.
"""
_DEFAULT_SECONDS = 8.0
_MICROSECOND = 1e-6


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "calibrate", help="measure what sharing costs on this device", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    group = parser.add_argument_group("calibration")
    add = group.add_argument
    add("--show", action="store_true", help="show what is stored; status 1 if nothing is")
    add("--force", action="store_true", help="measure even if something is stored")
    add(
        "--seconds", type=float, default=_DEFAULT_SECONDS, metavar="S",
        help="about how long to measure; more is steadier; default: %(default)g",
    )  # fmt: skip
    add(
        "--threads", type=int, metavar="N",
        help="of PyTorch on a CPU, as engines will have them; default: as OMP_NUM_THREADS says",
    )  # fmt: skip
    add("--json", action="store_true", help="one JSON object on stdout")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Show what is stored, or measure, store and show it."""
    if args.show and args.force:
        raise ConfigError("--force: not with --show: it measures nothing")
    if args.seconds <= 0:
        raise ConfigError(f"--seconds: must be more than 0, got {args.seconds:g}")
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads: must be at least 1, got {args.threads}")

    from treeserve.building import load_subject
    from treeserve.calibration.store import calibration_path, find_calibration
    from treeserve.config import EngineOptions

    with _threads(args.threads):
        subject, device = load_subject(EngineOptions(**given_engine_options(args)))
        calibration = None if args.force else find_calibration(subject)
        if calibration is None and args.show:
            raise CalibrationError(
                f"calibration: none is stored at {calibration_path(subject)}; "
                "treeserve calibrate measures one"
            )
        measured = calibration is None
        if calibration is None:
            calibration = _measure(subject, device, args.seconds)
    _print(calibration, calibration_path(subject), measured, args.json)
    return 0


def _measure(subject: "Subject", device: "torch.device", seconds: float) -> "Calibration":
    """A new calibration, stored.

    Raises:
        CalibrationError: It cannot be measured, trusted or stored.
    """
    from treeserve.calibration.choice import measure_costs
    from treeserve.calibration.store import store_calibration

    calibration = measure_costs(subject, device, lambda line: print(line, file=sys.stderr), seconds)
    store_calibration(calibration)
    return calibration


@contextmanager
def _threads(num_threads: int | None) -> Iterator[None]:
    """PyTorch with so many threads; None: as it is."""
    import torch

    before = torch.get_num_threads()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _print(calibration: "Calibration", path: Path, measured: bool, as_json: bool) -> None:
    if as_json:
        from treeserve.calibration.record import to_json

        print(json.dumps({**to_json(calibration), "path": str(path), "measured_now": measured}))
        return
    for line in (
        *_subject_lines(calibration),
        *_constants_lines(calibration),
        *_quality_lines(calibration),
    ):
        print(line)
    if measured:
        print(f"stored in {path} after {calibration.seconds:.0f} s")
    else:
        print(f"stored in {path} since {calibration.measured_at}; --force measures again")


def _subject_lines(calibration: "Calibration") -> Iterator[str]:
    s = calibration.subject
    threads = f", {s.num_threads} threads" if s.num_threads else ""
    yield f"{s.device}{threads}; torch {s.torch}"
    yield (
        f"{s.backend} attention, {s.dtype}, {s.num_heads} heads over {s.num_kv_heads} of "
        f"{s.head_dim}, {s.num_layers} layers"
    )


def _constants_lines(calibration: "Calibration") -> Iterator[str]:
    c = calibration.constants
    yield "cost in one layer              microseconds    tokens"
    for name, cost in (
        ("reading a token once more", c.token_cost),
        ("one more work item", c.item_cost),
        ("one more state of a row", c.state_cost),
        ("merging states at all", c.sharing_cost),
    ):
        yield f"  {name:28} {cost / _MICROSECOND:12.3f} {cost / c.token_cost:9,.0f}"
    longest = "never pays" if c.max_item_tokens is None else f"at {c.max_item_tokens:,} tokens"
    yield f"  cutting a work item          {longest:>12}"


def _quality_lines(calibration: "Calibration") -> Iterator[str]:
    q = calibration.quality
    yield (
        f"on {q.num_trees} trees that it was not fitted to, a plan's time is missed by "
        f"{q.median_error:.0%} in the median, {q.p90_error:.0%} in nine of ten;"
    )
    yield (
        f"the slower plan is chosen {q.num_wrong} times (by more than 5%), "
        f"at a mean loss of {q.mean_loss:.1%}"
    )
    yield "sharing pays from a prefix of   measured  predicted"
    for crossover in calibration.crossovers:
        measured, predicted = (
            f"{prefix:,}" if prefix is not None else f"> {crossover.longest:,}"
            for prefix in (crossover.measured, crossover.predicted)
        )
        yield f"  {crossover.batch:4d} rows, tokens       {measured:>12} {predicted:>10}"
