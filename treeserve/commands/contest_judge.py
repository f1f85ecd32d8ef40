"""`treeserve contest judge`: runs samples on the cases of their problems, in a sandbox."""

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from treeserve.commands.progress import ProgressLine
from treeserve.contest.judging import verdict_file
from treeserve.contest.judging.checkers import DEFAULT_TOLERANCE
from treeserve.contest.judging.judge_samples import Group, group_samples, judge_groups
from treeserve.contest.judging.program_judge import JudgeOptions
from treeserve.contest.judging.samples import SampleFile, read_samples
from treeserve.contest.judging.verdict import CODES
from treeserve.contest.judging.verdict_file import JudgedSample, VerdictWriter
from treeserve.contest.records.contest_problem import CheckerName, ContestProblem
from treeserve.contest.records.fields import RecordError
from treeserve.contest.records.problem_file import FORMATS, ProblemSet, read_contest_problems
from treeserve.contest.sandbox.bubblewrap import NoSandbox
from treeserve.contest.sandbox.limits import MEBIBYTE, Limits
from treeserve.contest.sandbox.sandbox import Confinement, find_confinement
from treeserve.errors import ConfigError, why_unreadable

_DESCRIPTION = """\
Run each sample's program on its problem's cases, and write a verdict: AC (accepted), WA (wrong
answer), TLE, MLE, OLE (over the limit on time, memory or output), RE (error while running), CE (no
program), or unjudged (no cases). Equal programs are run once. Started again with the same inputs,
it goes on where it was.

Programs run in bubblewrap: without network, on a read-only system, with a private /tmp.
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "judge", help="verdicts on samples, in a sandbox", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("samples", type=Path, metavar="SAMPLES", help="JSON lines")
    add = parser.add_argument
    add("--problems", type=Path, required=True, metavar="PATH", help="JSON lines, or a folder")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="for the verdicts")
    add("--format", choices=list(FORMATS), help="of the problems; default: by each record's looks")
    add("--keep-going", action="store_true", help="leave bad lines out, and say so")
    add("--jobs", type=int, metavar="N", help="programs at once; default: as many as cores")
    add(
        "--no-sandbox",
        action="store_true",
        help="run programs without bubblewrap, as yourself: only programs that you trust",
    )
    _add_judging_options(parser)


def _add_judging_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("judging").add_argument
    defaults = JudgeOptions()
    add(
        "--checker",
        choices=get_args(CheckerName),
        help="exact: line by line; tokens: what stands between spaces; float: tokens, and numbers "
        "may differ a little; default: the format's",
    )
    add(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        metavar="T",
        help="of float; default: %(default)g",
    )
    add(
        "--checker-program",
        type=Path,
        metavar="FILE",
        help=".py or .cpp; gets the files of input, output and expected output; 0 accepts",
    )
    add(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="processor time of a case, for all problems; default: the problem's, or "
        f"{defaults.default_time_seconds:g}",
    )
    add(
        "--memory-limit",
        type=int,
        metavar="MIB",
        help="of a case, for all problems; default: the problem's, or "
        f"{defaults.default_memory_bytes // MEBIBYTE}",
    )
    add("--output-limit", type=int, default=16, metavar="MIB", help="default: %(default)s")
    add(
        "--file-limit",
        type=int,
        default=64,
        metavar="MIB",
        help="of all that is written to /tmp; default: %(default)s",
    )
    add("--process-limit", type=int, default=16, metavar="N", help="default: %(default)s")


@dataclass(frozen=True)
class _Work:
    """What is to be judged, what equals a program that was judged before, and what was judged."""

    groups: list[Group]
    equal: list[JudgedSample]
    done: list[JudgedSample]
    num_samples: int


def run(args: argparse.Namespace) -> int:
    """Judge."""
    options, jobs = _options(args), _jobs(args)
    problems = read_contest_problems(args.problems, args.format, args.keep_going)
    samples = read_samples(args.samples, args.keep_going)
    samples = _with_problems(samples, problems.by_id(), args)
    confinement = _confinement(args)
    for error in (*problems.errors, *samples.errors):
        print(f"left out: {error}", file=sys.stderr)
    is_new = not args.output.exists()
    work = _begin(args, samples, problems, options, confinement)
    counts = {code: 0 for code in CODES}
    for judged in work.done:
        counts[judged.verdict.code] += 1
    with verdict_file.go_on(args.output) as writer, ProgressLine() as progress:
        try:
            _judge(args, work, confinement, options, jobs, writer, counts, progress)
        except KeyboardInterrupt:
            progress.clear()
            print(
                f"stopped: {len(work.done) + writer.num_added} of {work.num_samples} samples are "
                "judged; the same command goes on",
                file=sys.stderr,
            )
            raise
        except ConfigError:
            if is_new and not writer.num_added:
                # Else the command, put right, would find a file of another run.
                args.output.unlink()
            raise
    print(_summary(counts, work, problems))
    return 0


def _confinement(args: argparse.Namespace) -> Confinement:
    try:
        return find_confinement(not args.no_sandbox)
    except NoSandbox as error:
        raise NoSandbox(
            f"{error}; or type --no-sandbox to run programs that you trust as yourself"
        ) from None


def _judge(
    args: argparse.Namespace,
    work: _Work,
    confinement: Confinement,
    options: JudgeOptions,
    jobs: int,
    writer: VerdictWriter,
    counts: dict[Any, int],
    progress: ProgressLine,
) -> None:
    progress.start(f"judging {work.num_samples} samples in {confinement.description}:")
    judged = judge_groups(work.groups, confinement, options, jobs, args.checker_program)
    try:
        for sample in chain(work.equal, judged):
            writer.add(sample)
            counts[sample.verdict.code] += 1
            progress.tell(f"{sum(counts.values())} of {work.num_samples}, {counts['AC']} accepted")
    finally:
        judged.close()  # type: ignore[attr-defined]


def _begin(
    args: argparse.Namespace,
    samples: SampleFile,
    problems: ProblemSet,
    options: JudgeOptions,
    confinement: Confinement,
) -> _Work:
    """Begin the output or go on with it; refuse one that is another run's."""
    groups = group_samples(samples.samples, problems.by_id())
    keys = {
        (sample.problem_id, sample.sample_index): group.key
        for group in groups
        for sample in group.samples
    }
    head = _head(args, samples, problems, options, confinement)
    if not args.output.exists():
        verdict_file.create(args.output, head, problems.problems)
        return _Work(groups, [], [], len(keys))
    before = verdict_file.read_verdicts(args.output)
    if before.head.get("fingerprint") != head["fingerprint"]:
        differing = [
            name
            for name, value in head.items()
            if name != "fingerprint" and json.loads(json.dumps(value)) != before.head.get(name)
        ]
        _refuse(args.output, f"with other {' and '.join(differing) or 'inputs'}")
    for entry in before.samples:
        key = keys.get((entry.problem_id, entry.sample_index))
        if key != entry.program_key:
            is_what = "is not among the samples" if key is None else "is another program"
            sample = f"sample {entry.sample_index} of problem {entry.problem_id!r}"
            _refuse(args.output, f"{sample} {is_what}")
    groups, equal = _left(groups, before.samples)
    return _Work(groups, equal, list(before.samples), len(keys))


def _left(
    groups: list[Group], before: Sequence[JudgedSample]
) -> tuple[list[Group], list[JudgedSample]]:
    """What no verdict is known of, and the new samples of programs with a verdict."""
    done = {(entry.problem_id, entry.sample_index) for entry in before}
    verdicts = {(entry.problem_id, entry.program_key): entry.verdict for entry in before}
    left: list[Group] = []
    equal: list[JudgedSample] = []
    for group in groups:
        rest = [s for s in group.samples if (s.problem_id, s.sample_index) not in done]
        verdict = verdicts.get((group.problem.problem_id, group.key))
        if verdict is None:
            left.append(group)
            continue
        equal += [
            JudgedSample(s.problem_id, s.sample_index, group.key, verdict, s.round) for s in rest
        ]
    return left, equal


def _refuse(output: Path, why: str) -> None:
    raise ConfigError(
        f"--output: {output} is of another run ({why}); name another file, or remove this one"
    )


def _head(
    args: argparse.Namespace,
    samples: SampleFile,
    problems: ProblemSet,
    options: JudgeOptions,
    confinement: Confinement,
) -> dict[str, Any]:
    """What verdicts depend on. The samples may grow; those judged are compared one by one."""
    digests = "".join(problem.digest for problem in problems.problems)
    head: dict[str, Any] = {
        "problems": hashlib.sha256(digests.encode()).hexdigest(),
        "samples": samples.head.get("fingerprint"),
        "limits and checker": asdict(options),
        "checker program": _digest_of(args.checker_program),
        "sandbox": confinement.description,
    }
    text = json.dumps(head, sort_keys=True)
    return head | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def _digest_of(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"--checker-program: {file}: cannot be read: {why_unreadable(error)}"
        ) from None


def _with_problems(
    samples: SampleFile, problems: Mapping[str, ContestProblem], args: argparse.Namespace
) -> SampleFile:
    """Without samples whose problem is not there, which is an error unless told to go on."""
    strangers = sorted({s.problem_id for s in samples.samples if s.problem_id not in problems})
    if not strangers:
        return samples
    text = f"{args.samples}: field 'problem_id': {strangers[0]!r} is not in {args.problems}"
    if len(strangers) > 1:
        text += f", nor are {len(strangers) - 1} more"
    if not args.keep_going:
        raise RecordError(text)
    known = tuple(sample for sample in samples.samples if sample.problem_id in problems)
    return SampleFile(known, samples.head, samples.usage, (*samples.errors, text))


def _options(args: argparse.Namespace) -> JudgeOptions:
    for name in ("time_limit", "memory_limit", "output_limit", "file_limit", "process_limit"):
        value = getattr(args, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"--{name.replace('_', '-')}: must be above 0, got {value}")
    if not (args.tolerance >= 0 and math.isfinite(args.tolerance)):
        raise ConfigError(f"--tolerance: must be at least 0, got {args.tolerance}")
    memory = args.memory_limit
    return JudgeOptions(
        time_seconds=args.time_limit,
        memory_bytes=None if memory is None else memory * MEBIBYTE,
        checker=args.checker,
        tolerance=args.tolerance,
        limits=Limits(
            output_bytes=args.output_limit * MEBIBYTE,
            file_bytes=args.file_limit * MEBIBYTE,
            processes=args.process_limit,
        ),
    )


def _jobs(args: argparse.Namespace) -> int:
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: must be at least 1, got {args.jobs}")
    return args.jobs or len(os.sched_getaffinity(0))


def _summary(counts: Mapping[Any, int], work: _Work, problems: ProblemSet) -> str:
    shown = ", ".join(f"{count} {code}" for code, count in counts.items() if count)
    text = f"{sum(counts.values())} samples: {shown}"
    if work.done:
        text += f"; {len(work.done)} of them judged before"
    programs = len(work.groups)
    text += f"; {programs} different program{'' if programs == 1 else 's'} run"
    without = sum(not problem.cases for problem in problems.problems)
    return text + (f"; problems without cases: {without}" if without else "")
