"""What a program that failed is told: what its author would see at a contest, and no more."""

from treeserve.contest.judging.verdict import Code, Verdict
from treeserve.contest.records.contest_problem import ContestProblem

_WORDS: dict[Code, str] = {
    "WA": "wrong answer",
    "TLE": "time limit exceeded",
    "MLE": "memory limit exceeded",
    "OLE": "too much output",
    "RE": "it failed while running",
    "CE": "it is no program",
}


def feedback(verdict: Verdict, problem: ContestProblem) -> str:
    """In a line. What a hidden case expects is not said, nor what was printed there."""
    words = _WORDS.get(verdict.code, verdict.code)
    case = verdict.first_failing_case
    if case is None:
        return _with_detail(words, verdict)
    is_shown = case < len(problem.sample_cases)
    words += f" on sample case {case + 1}" if is_shown else " on a hidden case"
    return _with_detail(words, verdict) if is_shown or verdict.code != "WA" else words


def _with_detail(words: str, verdict: Verdict) -> str:
    return f"{words}: {' '.join(verdict.detail.split())}" if verdict.detail else words
