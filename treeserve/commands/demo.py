"""`treeserve demo`: one GenerateTree call solves contest problems at a real server."""

import argparse
import os
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.commands.options import add_engine_options, given_engine_options
from treeserve.commands.report import summary, total_usage
from treeserve.commands.server_process import RunningServer, running_server
from treeserve.contest.judging.judge_samples import judge_programs
from treeserve.contest.problem import (
    STOP,
    Problem,
    ProblemFileError,
    extract_program,
    read_problems,
    render_example,
    render_question,
    render_task,
)
from treeserve.contest.records.embedded import from_embedded
from treeserve.contest.run_program import judge_many
from treeserve.contest.sandbox.bubblewrap import NoSandbox
from treeserve.contest.sandbox.sandbox import Confinement, find_confinement
from treeserve.embedded import FEW_SHOT_FILE, PROBLEMS_FILE
from treeserve.errors import ConfigError
from treeserve.types import Delta, Finished, PromptTree, SamplingParams, Sharing, Usage

if TYPE_CHECKING:
    from treeserve.client import Client

_DESCRIPTION = """\
Start a server with the embedded model, send it one tree (solved examples, then several contest
problems, then several samples of each), run the programs that come back, say what sharing saved.

  treeserve demo
  treeserve demo --problems 20 --samples 16
  treeserve demo --sharing off          the same work without shared attention, for comparison
"""

_SHOWN = 3
_PROGRESS_SECONDS = 5.0


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
    group.add_argument("--problem-file", type=Path, default=PROBLEMS_FILE, metavar="FILE")
    group.add_argument("--example-file", type=Path, default=FEW_SHOT_FILE, metavar="FILE")
    add_engine_options(parser)


@dataclass(slots=True)
class _Answers:
    """What came back: the text of each sample by problem, and the usage of each problem."""

    texts: list[list[str]]
    num_ended: int = 0
    num_tokens: int = 0
    usages: list[Usage] = field(default_factory=list)

    def see(self, item: Delta | Finished) -> None:
        if isinstance(item, Finished):
            self.usages.append(item.usage)
            return
        self.texts[item.path[0]][item.sample_index] += item.text
        self.num_tokens += len(item.token_ids)
        self.num_ended += item.finish_reason is not None


@dataclass(frozen=True, slots=True)
class _Solved:
    """A problem, and the programs for it that pass all its cases, by sample."""

    problem: Problem
    num_samples: int
    passing: dict[int, str]


def run(args: argparse.Namespace) -> int:
    """Show it."""
    for name in ("problems", "samples", "examples", "max_tokens"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: must be at least 1, got {getattr(args, name)}")
    problems = _read(args.problem_file)[: args.problems]
    examples = _read(args.example_file)[: args.examples]
    tree = _tree(args, problems, examples)
    print(
        f"{len(problems)} contest problems, {args.samples} samples of each, "
        f"after {len(examples)} solved examples that they all share"
    )
    print("starting a server …", flush=True)
    started = time.monotonic()
    with running_server(given_engine_options(args)) as server:
        print(f"ready after {time.monotonic() - started:.1f} s: {server.model}")
        answers = _ask(server, tree, args.samples)
        sharing = _sharing(server)
    _show(_judge(problems, answers, confinement()), answers, sharing)
    return 0


def _read(file: Path) -> list[Problem]:
    try:
        return read_problems(file)
    except ProblemFileError as error:
        raise ConfigError(str(error)) from None


def _tree(
    args: argparse.Namespace, problems: Sequence[Problem], examples: Sequence[Problem]
) -> PromptTree:
    params = SamplingParams(
        temperature=args.temperature, max_tokens=args.max_tokens, seed=args.seed, stop=(STOP,)
    )
    return PromptTree(
        text="".join(render_example(example) for example in examples),
        params=params,
        branches=tuple(
            PromptTree(render_question(problem), n=args.samples) for problem in problems
        ),
    )


def _ask(server: RunningServer, tree: PromptTree, num_samples: int) -> _Answers:
    from treeserve.client import Client

    answers = _Answers([[""] * num_samples for _ in tree.branches])
    started = time.monotonic()
    with Client(server.grpc_address) as client:
        _stream(client, tree, answers)
    seconds = time.monotonic() - started
    rate = answers.num_tokens / seconds
    print(f"one GenerateTree call: {seconds:.1f} s, {rate:,.0f} completion tokens a second")
    return answers


def _stream(client: "Client", tree: PromptTree, answers: _Answers) -> None:
    """Progress is one line that changes; where nobody watches it, a line every few seconds."""
    num_samples = sum(branch.n or 0 for branch in tree.branches)
    live = sys.stdout.isatty()
    shown = time.monotonic()
    for item in client.generate_tree(tree):
        answers.see(item)
        line = f"{answers.num_ended} of {num_samples} samples ended, {answers.num_tokens:,} tokens"
        if live:
            print(f"\r{line}", end="", flush=True)
        elif time.monotonic() - shown > _PROGRESS_SECONDS:
            shown = time.monotonic()
            print(line, flush=True)
    print("" if live else line)


def _sharing(server: RunningServer) -> Sharing:
    """What attention read, from the server's own metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://{server.http_address}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Sharing(
        kv_tokens_read=int(values["treeserve_kv_tokens_read_total"]),
        kv_tokens_read_flat=int(values["treeserve_kv_tokens_read_flat_total"]),
    )


def confinement() -> Confinement | None:
    """Where the programs run, which is printed too; None: there is no bubblewrap."""
    try:
        found = find_confinement()
    except NoSandbox as error:
        print(error)
        print("programs that keep to a small Python are run in a confined process instead")
        return None
    print(f"judging in {found.description}", flush=True)
    return found


def _judge(
    problems: Sequence[Problem], answers: _Answers, where: Confinement | None
) -> list[_Solved]:
    solved = []
    for problem, texts in zip(problems, answers.texts, strict=True):
        programs = [extract_program(text) for text in texts]
        results = passed(problem, programs, where)
        passing = {i: programs[i] for i in range(len(programs)) if results[i]}
        solved.append(_Solved(problem, len(programs), passing))
    return solved


def passed(problem: Problem, programs: Sequence[str], where: Confinement | None) -> list[bool]:
    """Whether each program passes all cases of a problem."""
    if where is None:
        return [verdict.passed for verdict in judge_many(problem, programs)]
    jobs = len(os.sched_getaffinity(0))
    verdicts = judge_programs(from_embedded(problem), programs, where, jobs)
    return [verdict.passed for verdict in verdicts]


def _show(solved: Sequence[_Solved], answers: _Answers, sharing: Sharing) -> None:
    for entry in sorted(solved, key=lambda entry: not entry.passing)[:_SHOWN]:
        _show_problem(entry)
    print()
    for entry in solved:
        print(f"{len(entry.passing):4} of {entry.num_samples} samples pass: {entry.problem.title}")
    num_solved = sum(bool(entry.passing) for entry in solved)
    num_passing = sum(len(entry.passing) for entry in solved)
    num_samples = sum(entry.num_samples for entry in solved)
    print(
        f"\nsolved {num_solved} of {len(solved)} problems; {num_passing} of {num_samples} "
        "programs pass every case"
    )
    print(summary(total_usage(answers.usages), sharing))


def _show_problem(entry: _Solved) -> None:
    problem = entry.problem
    print(f"\n== {problem.title} (difficulty {problem.difficulty})\n{render_task(problem)}", end="")
    if not entry.passing:
        print(f"-- none of {entry.num_samples} samples passes its {len(problem.cases)} cases")
        return
    index, program = next(iter(entry.passing.items()))
    print(f"-- sample {index} passes all {len(problem.cases)} cases:\n{program}", end="")
