"""Records of the embedded problems, as `treeserve.contest.problem` writes them."""

from treeserve.contest.problem import Problem, ProblemFileError, parse_problem
from treeserve.contest.records.contest_problem import ContestProblem, StdioCase
from treeserve.contest.records.fields import Record, RecordError

NAME = "embedded"


def looks_right(record: Record) -> bool:
    """Whether a record is one of these."""
    return {"statement", "sample_cases", "hidden_cases"} <= record.keys()


def read(record: Record, where: str) -> ContestProblem:
    """The problem of a record."""
    try:
        return from_embedded(parse_problem(dict(record), where))
    except ProblemFileError as error:
        raise RecordError(str(error)) from None


def from_embedded(problem: Problem) -> ContestProblem:
    """The judge's record of an embedded problem."""
    return ContestProblem(
        problem_id=problem.problem_id,
        source=NAME,
        title=problem.title,
        statement=problem.statement,
        difficulty=str(problem.difficulty),
        sample_cases=tuple(StdioCase(c.stdin, c.stdout) for c in problem.sample_cases),
        hidden_cases=tuple(StdioCase(c.stdin, c.stdout) for c in problem.hidden_cases),
        checker="exact",
        solution=problem.solution,
    )
