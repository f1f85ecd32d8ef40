"""Solved examples before a problem, of which the problem itself is never one."""

from collections.abc import Sequence
from dataclasses import dataclass

from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.errors import ConfigError


@dataclass(frozen=True)
class FewShot:
    """Candidates in the order in which they are taken, and how many of them each prompt has.

    Attributes:
        number: None: all there are.
        same_set: Whether the candidates are of the problems' own data set, so that equal ids are
            equal problems.
    """

    candidates: tuple[ContestProblem, ...]
    number: int | None
    same_set: bool

    def before(self, problem: ContestProblem) -> list[ContestProblem]:
        """The examples of one problem: the same ones for all that are not among them."""
        others = [c for c in self.candidates if not self._is_same(c, problem)]
        if self.number is None:
            return others
        if len(others) < self.number:
            raise ConfigError(
                f"--examples: {self.number} asked for; problem {problem.problem_id!r} leaves "
                f"{len(others)} with a solution"
            )
        return others[: self.number]

    def _is_same(self, candidate: ContestProblem, problem: ContestProblem) -> bool:
        if self.same_set and candidate.problem_id == problem.problem_id:
            return True
        return candidate.statement.split() == problem.statement.split()


def few_shot(
    data_set: Sequence[ContestProblem],
    example_file: Sequence[ContestProblem] | None,
    number: int | None,
) -> FewShot:
    """Where examples come from: a file, else the end of the data set itself.

    Args:
        number: None takes all of the file's, or none of the data set's.

    Raises:
        ConfigError: More are asked for than have a solution.
    """
    same_set = example_file is None
    given = data_set[::-1] if example_file is None else example_file
    candidates = tuple(problem for problem in given if problem.solution.strip())
    if number is None and same_set:
        number = 0
    if number is not None and number > len(candidates):
        raise ConfigError(
            f"--examples: {number} asked for, and {len(candidates)} problems "
            f"{'of the data set' if same_set else 'of --example-file'} have a solution"
        )
    return FewShot(candidates, number, same_set)
