"""Judges the samples of many problems on several cores, equal programs once."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from treeserve.contest.judging.extract import Program
from treeserve.contest.judging.normalise import program_key
from treeserve.contest.judging.program_judge import CustomChecker, JudgeOptions, ProgramJudge
from treeserve.contest.judging.samples import Sample
from treeserve.contest.judging.verdict import Verdict
from treeserve.contest.judging.verdict_file import JudgedSample
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.sandbox.sandbox import Confinement, Workers

Key = tuple[str, str]
"""A problem's id and a program's key."""


@dataclass(frozen=True)
class Group:
    """Samples whose programs are equal, and one of those programs."""

    problem: ContestProblem
    key: str
    program: Program
    samples: tuple[Sample, ...]


def group_samples(samples: Sequence[Sample], problems: Mapping[str, ContestProblem]) -> list[Group]:
    """Groups in the order in which their first samples come."""
    members: dict[Key, list[Sample]] = {}
    programs: dict[Key, Program] = {}
    for sample in samples:
        program = sample.to_run(problems[sample.problem_id])
        key = (sample.problem_id, program_key(program.text, program.language))
        programs.setdefault(key, program)
        members.setdefault(key, []).append(sample)
    return [
        Group(problems[problem_id], key, programs[problem_id, key], tuple(group))
        for (problem_id, key), group in members.items()
    ]


def judge_groups(
    groups: Sequence[Group],
    confinement: Confinement,
    options: JudgeOptions,
    jobs: int,
    checker_file: Path | None = None,
) -> Iterator[JudgedSample]:
    """Verdicts, group by group as they come, in no fixed order.

    However it is left (to its end, by an error, by closing it), no process is left behind.
    """
    workers = Workers(confinement)
    checker = _build_checker(workers, confinement, options, checker_file)
    tasks: queue.SimpleQueue[Group] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[Group, Verdict] | BaseException] = queue.SimpleQueue()
    for group in groups:
        tasks.put(group)

    def work() -> None:
        try:
            _judge_all(workers, confinement.python, options, checker, tasks, results.put)
        except BaseException as error:
            results.put(error)

    threads = [threading.Thread(target=work) for _ in range(min(jobs, len(groups)))]
    try:
        for thread in threads:
            thread.start()
        for _ in groups:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            group, verdict = result
            for sample in group.samples:
                yield JudgedSample(
                    sample.problem_id, sample.sample_index, group.key, verdict, sample.round
                )
    finally:
        workers.end_all()
        for thread in threads:
            thread.join()


def _judge_all(
    workers: Workers,
    python: str,
    options: JudgeOptions,
    checker: CustomChecker | None,
    tasks: "queue.SimpleQueue[Group]",
    put: Callable[[tuple[Group, Verdict]], None],
) -> None:
    worker = workers.start()
    try:
        judge = ProgramJudge(worker, python, options, checker)
        while True:
            try:
                group = tasks.get_nowait()
            except queue.Empty:
                return
            put((group, judge.judge(group.problem, group.program)))
    finally:
        workers.end(worker)


def _build_checker(
    workers: Workers, confinement: Confinement, options: JudgeOptions, file: Path | None
) -> CustomChecker | None:
    if file is None:
        return None
    worker = workers.start()
    try:
        return ProgramJudge(worker, confinement.python, options).custom_checker(file)
    finally:
        workers.end(worker)
