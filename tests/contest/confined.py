"""A worker of the real sandbox, for tests; where bubblewrap cannot run, they are skipped."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from treeserve.contest.judging.extract import Program
from treeserve.contest.judging.program_judge import JudgeOptions, ProgramJudge
from treeserve.contest.judging.verdict import Verdict
from treeserve.contest.records.contest_problem import Case, ContestProblem
from treeserve.contest.sandbox.bubblewrap import NoSandbox
from treeserve.contest.sandbox.sandbox import Confinement, Worker, find_confinement


@functools.cache
def _found() -> Confinement | str:
    try:
        return find_confinement()
    except NoSandbox as error:
        return str(error)


def confinement() -> Confinement:
    """The sandbox of this machine, or a skipped test."""
    found = _found()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@contextmanager
def a_worker() -> Iterator[Worker]:
    worker = Worker(confinement().bwrap)
    try:
        yield worker
    finally:
        worker.close()
        worker.release()


def judged(
    worker: Worker,
    program: str,
    *cases: Case,
    options: JudgeOptions | None = None,
    language: str = "python",
    **problem: object,
) -> Verdict:
    """The verdict on a program for a problem of these cases."""
    task = ContestProblem("p", "test", "p", "do it", hidden_cases=cases, **problem)
    judge = ProgramJudge(worker, confinement().python, options or JudgeOptions())
    return judge.judge(task, Program(program, language))


def hasty(options: JudgeOptions, *codes: str) -> JudgeOptions:
    """With little time where a program is to run out of it, and only there: machines are busy."""
    return replace(options, time_seconds=0.3) if "TLE" in codes else options


def running(mark: str) -> list[int]:
    """Processes of this machine, in any sandbox, whose first argument holds a mark."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path("/proc", pid, "cmdline").read_bytes().split(b"\0")[0]:
                found.append(int(pid))
        except OSError:
            continue
    return found
