"""`treeserve demo`: contest problems, from a real server to a report, with the embedded model."""

import argparse
import shlex
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from treeserve.commands import contest
from treeserve.commands.options import (
    OneLineParser,
    add_engine_options,
    given_engine_options,
    require_at_least,
)
from treeserve.commands.report import kv_summary
from treeserve.commands.server_process import RunningServer, running_server
from treeserve.contest.judging.samples import Sample, read_samples
from treeserve.contest.judging.verdict_file import read_verdicts
from treeserve.contest.problem import (
    Problem,
    ProblemFileError,
    extract_program,
    read_problems,
    render_task,
)
from treeserve.contest.run_program import judge_many
from treeserve.contest.sandbox.bubblewrap import NoSandbox
from treeserve.contest.sandbox.sandbox import find_confinement
from treeserve.embedded import FEW_SHOT_FILE, PROBLEMS_FILE
from treeserve.errors import ConfigError, TreeserveError

_DESCRIPTION = """\
Start a server with the embedded model, and at it: sample contest problems (solved examples, then
several problems, then several samples of each), judge the programs, report. Every step is a command
that is shown as it is run.

  treeserve demo
  treeserve demo --problems 20 --samples 16
  treeserve demo --sharing off          the same work without shared attention, for comparison
"""

_SHOWN = 2

Passing = dict[str, dict[int, str]]
"""Programs that pass all cases, by problem and sample."""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "demo", help="see it work, with the embedded model", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    group = parser.add_argument_group("demo")

    def add(option: str, kind: type, default: object, text: str) -> None:
        group.add_argument(
            option, type=kind, default=default, metavar="N", help=f"{text}; default: %(default)s"
        )

    add("--problems", int, 8, "problems to solve")
    add("--samples", int, 8, "samples of each")
    add("--examples", int, 8, "solved examples before them, at most")
    add("--max-tokens", int, 192, "of each sample, at most")
    add("--temperature", float, 0.7, "0 is greedy")
    add("--seed", int, 0, "of the samples")
    group.add_argument(
        "--problem-file", type=Path, default=PROBLEMS_FILE, metavar="FILE",
        help="JSON lines, as the embedded problems are; default: those",
    )  # fmt: skip
    group.add_argument(
        "--example-file", type=Path, default=FEW_SHOT_FILE, metavar="FILE",
        help="of the solved ones; default: the embedded ones",
    )  # fmt: skip
    group.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for samples, verdicts and the report's page"
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Show it."""
    require_at_least(args, problems=1, samples=1, examples=1, max_tokens=1)
    problems = _read(args.problem_file)[: args.problems]
    num_examples = min(args.examples, len(_read(args.example_file)))
    folder = _folder(args.output)
    print(
        f"{len(problems)} contest problems, {args.samples} samples of each, "
        f"after {num_examples} solved examples that they all share"
    )
    print("starting a server …", flush=True)
    started = time.monotonic()
    with running_server(given_engine_options(args)) as server:
        print(f"ready after {time.monotonic() - started:.1f} s: {server.model}")
        _sample(args, num_examples, server, folder)
        kv_line = _kv_line(server)
    _judge(args, problems, folder)
    print(kv_line)
    return 0


def _folder(given: Path | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="treeserve-demo-"))
    try:
        given.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: {given}: cannot be made: {error.strerror}") from None
    return given


def _read(file: Path) -> list[Problem]:
    try:
        return read_problems(file)
    except ProblemFileError as error:
        raise ConfigError(str(error)) from None


def _sample(
    args: argparse.Namespace, num_examples: int, server: RunningServer, folder: Path
) -> None:
    options = {
        "--problems": f"first:{args.problems}",
        "--samples": args.samples,
        "--example-file": args.example_file,
        "--examples": num_examples,
        "--max-tokens": args.max_tokens,
        "--temperature": args.temperature,
        "--seed": args.seed,
        "--server": server.grpc_address,
    }
    words = [str(word) for option in options.items() for word in option]
    _command("sample", str(args.problem_file), "-o", str(folder / "samples.jsonl"), *words)


def _judge(args: argparse.Namespace, problems: Sequence[Problem], folder: Path) -> None:
    """In the sandbox, with a report; or, without bubblewrap, with what there is."""
    samples, verdicts = str(folder / "samples.jsonl"), str(folder / "verdicts.jsonl")
    drawn = read_samples(Path(samples)).samples
    try:
        find_confinement()
    except NoSandbox as error:
        print(f"\n{error}")
        print("programs that keep to a small Python are run in a confined process instead")
        _show(problems, passing_confined(problems, drawn))
        return
    files = ["--problems", str(args.problem_file)]
    _command("judge", samples, *files, "-o", verdicts)
    _show(problems, _passing(drawn, Path(verdicts)))
    page = str(folder / "report.html")
    _command("report", verdicts, "--samples", samples, *files, "--html", page)
    print(f"the page, with each problem's samples and their verdicts: {page}")


def _command(*words: str) -> None:
    """Run a command of `treeserve contest`, and show it."""
    print(f"\n$ treeserve contest {shlex.join(words)}", flush=True)
    parser = OneLineParser(prog="treeserve")
    contest.add_parser(parser.add_subparsers(parser_class=OneLineParser))
    args = parser.parse_args(["contest", *words])
    if args.run(args) != 0:
        raise TreeserveError(f"contest {words[0]}: it did not end well, as said above")


def _passing(samples: Sequence[Sample], verdicts: Path) -> Passing:
    accepted = {
        (judged.problem_id, judged.sample_index)
        for judged in read_verdicts(verdicts).samples
        if judged.verdict.passed
    }
    passing: Passing = {}
    for sample in samples:
        if (sample.problem_id, sample.sample_index) in accepted:
            of_problem = passing.setdefault(sample.problem_id, {})
            of_problem[sample.sample_index] = extract_program(sample.text)
    return passing


def passing_confined(problems: Sequence[Problem], samples: Sequence[Sample]) -> Passing:
    """Programs that pass, run without bubblewrap: refused unless they keep to a small Python."""
    passing: Passing = {}
    for problem in problems:
        programs = {
            sample.sample_index: extract_program(sample.text)
            for sample in samples
            if sample.problem_id == problem.problem_id
        }
        verdicts = judge_many(problem, list(programs.values()))
        passing[problem.problem_id] = {
            index: program
            for (index, program), verdict in zip(programs.items(), verdicts, strict=True)
            if verdict.passed
        }
    return passing


def _show(problems: Sequence[Problem], passing: Mapping[str, Mapping[int, str]]) -> None:
    ordered = sorted(problems, key=lambda problem: not passing.get(problem.problem_id))
    for problem in ordered[:_SHOWN]:
        _show_problem(problem, passing.get(problem.problem_id, {}))
    print()
    for problem in problems:
        print(f"{len(passing.get(problem.problem_id, {})):4} samples pass: {problem.title}")


def _show_problem(problem: Problem, passing: Mapping[int, str]) -> None:
    print(f"\n== {problem.title} (difficulty {problem.difficulty})\n{render_task(problem)}", end="")
    if not passing:
        print(f"-- no sample passes its {len(problem.cases)} cases")
        return
    index = min(passing)
    print(f"-- sample {index} passes all {len(problem.cases)} cases:\n{passing[index]}", end="")


def _kv_line(server: RunningServer) -> str:
    """What attention read, from the server's own metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://{server.http_address}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    read = values["treeserve_kv_tokens_read_total"]
    flat = values["treeserve_kv_tokens_read_flat_total"]
    return kv_summary(read, flat) if read else "no KV was read"
