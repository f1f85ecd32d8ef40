"""Which problems of a file are wanted: by id, position, difficulty or number."""

import difflib
import re
from collections.abc import Sequence

from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.errors import ConfigError

_RANGE = re.compile(r"(\d*):(\d*)")
_FIRST = re.compile(r"first:(\d+)")
_FORMS = "an id, START:END (positions from 0, END not among them), difficulty:WORD or first:N"


def select(problems: Sequence[ContestProblem], selections: Sequence[str]) -> list[ContestProblem]:
    """Problems in the order of their file.

    Args:
        selections: Each narrows what those before it left. Its entries, between commas, are added
            up: an id, START:END (positions from 0, END not among them), difficulty:WORD, first:N.

    Raises:
        ConfigError: An entry that matches nothing; it is named.
    """
    chosen = list(problems)
    for selection in selections:
        wanted = {
            problem.problem_id
            for entry in selection.split(",")
            for problem in _matching(chosen, entry.strip())
        }
        chosen = [problem for problem in chosen if problem.problem_id in wanted]
    return chosen


def _matching(problems: Sequence[ContestProblem], entry: str) -> list[ContestProblem]:
    by_id = [problem for problem in problems if problem.problem_id == entry]
    if by_id:
        return by_id
    if entry.startswith("difficulty:"):
        return _of_difficulty(problems, entry.removeprefix("difficulty:").strip())
    found = _FIRST.fullmatch(entry)
    matching = _of_range(problems, entry) if found is None else list(problems[: int(found[1])])
    if not matching:
        raise ConfigError(f"--problems: {entry!r} matches none of the {len(problems)} problems")
    return matching


def _of_difficulty(problems: Sequence[ContestProblem], word: str) -> list[ContestProblem]:
    matching = [p for p in problems if p.difficulty.casefold() == word.casefold()]
    if not matching:
        known = ", ".join(sorted({p.difficulty for p in problems if p.difficulty})) or "none given"
        raise ConfigError(f"--problems: no problem has the difficulty {word!r}; there are: {known}")
    return matching


def _of_range(problems: Sequence[ContestProblem], entry: str) -> list[ContestProblem]:
    found = _RANGE.fullmatch(entry)
    if found is None or entry == ":":
        close = difflib.get_close_matches(entry, [p.problem_id for p in problems], n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(
            f"--problems: no problem has the id {entry!r}{meant}; an entry is {_FORMS}"
        )
    start = int(found[1] or 0)
    end = int(found[2]) if found[2] else len(problems)
    return list(problems[start:end])
