"""Judges samples while others are still drawn."""

import queue
import threading
from collections.abc import Sequence

from treeserve.contest.judging.extract import Program
from treeserve.contest.judging.normalise import program_key
from treeserve.contest.judging.program_judge import JudgeOptions, ProgramJudge
from treeserve.contest.judging.samples import Sample
from treeserve.contest.judging.verdict import Verdict
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.sandbox.sandbox import Confinement, Workers

Key = tuple[str, str]
Judged = tuple[Sample, Verdict]


class BackgroundJudge:
    """Threads with a worker each; equal programs are run once. Used by one thread; close it.

    Args:
        confinement: Where programs run.
        jobs: Programs at once.
    """

    def __init__(self, confinement: Confinement, jobs: int) -> None:
        self._workers = Workers(confinement)
        self._python = confinement.python
        self._tasks: queue.SimpleQueue[tuple[Key, ContestProblem, Program] | None]
        self._tasks = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Key, Verdict] | BaseException]
        self._results = queue.SimpleQueue()
        self._verdicts: dict[Key, Verdict] = {}
        self._waiting: dict[Key, list[Sample]] = {}
        self._ready: list[Judged] = []
        self._threads = [threading.Thread(target=self._work) for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether every verdict has been taken."""
        return not self._waiting and not self._ready

    def submit(self, problem: ContestProblem, sample: Sample) -> None:
        """Ask for a verdict."""
        program = sample.to_run(problem)
        key = (problem.problem_id, program_key(program.text, program.language))
        if key in self._verdicts:
            self._ready.append((sample, self._verdicts[key]))
            return
        if key not in self._waiting:
            self._tasks.put((key, problem, program))
        self._waiting.setdefault(key, []).append(sample)

    def take(self) -> Sequence[Judged]:
        """Verdicts that are there by now."""
        while not self._results.empty():
            self._see(self._results.get())
        ready, self._ready = self._ready, []
        return ready

    def wait(self) -> Sequence[Judged]:
        """The same, once there is one at least; at once where nothing is asked for."""
        if self._waiting and not self._ready:
            self._see(self._results.get())
        return self.take()

    def close(self) -> None:
        """End the programs that still run."""
        self._workers.end_all()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _see(self, result: tuple[Key, Verdict] | BaseException) -> None:
        if isinstance(result, BaseException):
            raise result
        key, verdict = result
        self._verdicts[key] = verdict
        self._ready += [(sample, verdict) for sample in self._waiting.pop(key)]

    def _work(self) -> None:
        try:
            worker = self._workers.start()
            try:
                judge = ProgramJudge(worker, self._python, JudgeOptions())
                while (task := self._tasks.get()) is not None:
                    key, problem, program = task
                    self._results.put((key, judge.judge(problem, program)))
            finally:
                self._workers.end(worker)
        except BaseException as error:
            self._results.put(error)
