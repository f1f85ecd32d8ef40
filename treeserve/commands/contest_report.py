"""`treeserve contest report`: pass@k, verdicts and what sharing saved, as text, JSON or a page."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from treeserve.contest.judging.samples import SampleFile, read_samples
from treeserve.contest.judging.verdict_file import VerdictFile, read_verdicts
from treeserve.contest.records.problem_file import FORMATS, read_contest_problems
from treeserve.contest.reporting.page import Shown, page
from treeserve.contest.reporting.summary import distinct_samples, summarise
from treeserve.contest.reporting.table import table
from treeserve.errors import ConfigError

_DESCRIPTION = """\
Report what `treeserve contest judge` found: pass@k by the unbiased estimator with bootstrap
intervals over problems, per difficulty, counts of verdicts, and, with --samples, what sharing
saved. Unjudged problems are counted and in no estimate.

  treeserve contest report verdicts.jsonl
  treeserve contest report verdicts.jsonl --samples samples.jsonl --html report.html
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "report", help="pass@k and verdicts, as text, JSON or a page", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("verdicts", type=Path, nargs="+", metavar="VERDICTS", help="files of `contest judge`")
    add("--samples", type=Path, metavar="FILE", help="for usage, and for the page's trees")
    add(
        "--sharing-off",
        type=Path,
        metavar="FILE",
        help="the same samples as --samples, drawn with --sharing off: says how long that took",
    )
    add("--problems", type=Path, metavar="PATH", help="for the page's statements")
    add("--format", choices=list(FORMATS), help="of the problems")
    add("--json", action="store_true", help="to stdout, in place of the table")
    add("--html", type=Path, metavar="FILE", help="write a page")
    add("--title", default="Contest report", help="of the page; default: %(default)s")
    add("--seed", type=int, default=0, help="of the bootstrap; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Report."""
    if args.seed < 0:
        raise ConfigError(f"--seed: must be at least 0, got {args.seed}")
    files = [read_verdicts(path) for path in args.verdicts]
    samples = None if args.samples is None else _samples_of(args.samples, files)
    summary = summarise(files, _usage(args, samples), args.seed)
    if not summary.problems:
        raise ConfigError(f"{args.verdicts[0]}: no sample is judged yet")
    if args.html is not None:
        text = page(summary, args.title, _statements(args), _shown(files, samples))
        _write(args.html, text)
    if args.json:
        json.dump(summary.as_json(), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(table(summary))
    return 0


def _samples_of(path: Path, files: Sequence[VerdictFile]) -> SampleFile:
    """The samples file; of another run its usage would say nothing."""
    samples = read_samples(path)
    if all(file.head.get("samples") != samples.head.get("fingerprint") for file in files):
        raise ConfigError(f"--samples: {path}: not the samples that were judged")
    return samples


def _usage(args: argparse.Namespace, samples: SampleFile | None) -> Mapping[str, float] | None:
    """Of the samples, with the time that as many took without sharing."""
    if args.sharing_off is None:
        return None if samples is None else samples.usage
    if samples is None:
        raise ConfigError("--sharing-off: needs --samples, which it is compared with")
    off = read_samples(args.sharing_off)
    differing = [
        name
        for name, mine, other in (
            ("problems, model, sampling or seed", samples.head, off.head),
            ("samples", _keys(samples), _keys(off)),
        )
        if mine != other
    ]
    if differing:
        raise ConfigError(
            f"--sharing-off: {args.sharing_off}: has other {' and '.join(differing)} than "
            f"{args.samples}"
        )
    if "seconds" not in off.usage:
        raise ConfigError(f"--sharing-off: {args.sharing_off}: does not say how long it took")
    return {**samples.usage, "seconds_sharing_off": off.usage["seconds"]}


def _keys(samples: SampleFile) -> set[tuple[str, int]]:
    return {(sample.problem_id, sample.sample_index) for sample in samples.samples}


def _statements(args: argparse.Namespace) -> dict[str, str]:
    if args.problems is None:
        return {}
    problems = read_contest_problems(args.problems, args.format, keep_going=True)
    return {problem.problem_id: problem.statement for problem in problems.problems}


def _shown(
    files: Sequence[VerdictFile], samples: SampleFile | None
) -> Mapping[str, Sequence[Shown]]:
    if samples is None:
        return {}
    verdicts = {(s.problem_id, s.sample_index): s.verdict for s in distinct_samples(files)}
    shown: dict[str, list[Shown]] = {}
    for sample in sorted(samples.samples, key=lambda sample: sample.sample_index):
        verdict = verdicts.get((sample.problem_id, sample.sample_index))
        if verdict is not None:
            shown.setdefault(sample.problem_id, []).append(Shown(sample, verdict))
    return shown


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--html: {file}: cannot be written: {error}") from None
