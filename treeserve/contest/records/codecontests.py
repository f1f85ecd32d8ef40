"""CodeContests records, as JSON lines."""

from typing import Any

from treeserve.contest.records import fields
from treeserve.contest.records.contest_problem import Case, ContestProblem, StdioCase
from treeserve.contest.records.fields import Record, RecordError

NAME = "codecontests"
_WORDS = ("", "easy", "medium", "hard", "harder", "hardest", "external")
_PYTHON_3 = (3, "PYTHON3")
_DIFFICULTIES: tuple[str, ...] = (*_WORDS, *"ABCDEFGHIJKLMNOPQRSTUV")


def looks_right(record: Record) -> bool:
    """Whether a record is one of these."""
    return {"description", "public_tests"} <= record.keys()


def read(record: Record, where: str) -> ContestProblem:
    """The problem of a record; private and generated cases are the hidden ones."""
    name = fields.text(record, "name", where)
    for file in ("input_file", "output_file"):
        if fields.optional_text(record, file, where):
            raise RecordError(f"{where}: field '{file}': only stdin and stdout can be judged")
    return ContestProblem(
        problem_id=name,
        source=NAME,
        title=name,
        statement=fields.text(record, "description", where),
        difficulty=_difficulty(record.get("difficulty"), where),
        sample_cases=_cases(record, "public_tests", where),
        hidden_cases=_cases(record, "private_tests", where)
        + _cases(record, "generated_tests", where),
        time_seconds=_seconds(record.get("time_limit"), where),
        memory_bytes=_memory(record.get("memory_limit_bytes"), where),
        checker="float",
        solution=_solution(record, where),
    )


def _solution(record: Record, where: str) -> str:
    """The first one in Python 3."""
    solutions = record.get("solutions") or {}
    if not isinstance(solutions, dict):
        raise RecordError(
            f"{where}: field 'solutions': expected an object with 'language' and 'solution'"
        )
    texts = fields.texts(solutions, "solution", f"{where}: in 'solutions'")
    languages = solutions.get("language") or []
    pairs = zip(languages, texts, strict=False)
    return next((text for language, text in pairs if language in _PYTHON_3), "")


def _difficulty(value: Any, where: str) -> str:
    if value is None or isinstance(value, str):
        return str(value or "")
    if type(value) is int and 0 <= value < len(_DIFFICULTIES):
        return _DIFFICULTIES[value]
    raise RecordError(
        f"{where}: field 'difficulty': expected 0 to {len(_DIFFICULTIES) - 1} or a text, "
        f"found {fields.shown(value)}"
    )


def _cases(record: Record, name: str, where: str) -> tuple[Case, ...]:
    tests = record.get(name) or {}
    if not isinstance(tests, dict):
        raise RecordError(f"{where}: field '{name}': expected an object with 'input' and 'output'")
    inputs = fields.texts(tests, "input", f"{where}: in '{name}'")
    outputs = fields.texts(tests, "output", f"{where}: in '{name}'")
    if len(inputs) != len(outputs):
        raise RecordError(
            f"{where}: field '{name}': {len(inputs)} inputs and {len(outputs)} outputs"
        )
    return tuple(StdioCase(*case) for case in zip(inputs, outputs, strict=True))


def _seconds(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, dict):
        seconds, nanos = value.get("seconds", 0), value.get("nanos", 0)
        if type(seconds) is int and type(nanos) is int:
            return seconds + nanos * 1e-9 or None
    elif isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value) or None
    raise RecordError(
        f"{where}: field 'time_limit': expected {{seconds, nanos}} or seconds, "
        f"found {fields.shown(value)}"
    )


def _memory(value: Any, where: str) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value or None
    raise RecordError(
        f"{where}: field 'memory_limit_bytes': expected bytes, found {fields.shown(value)}"
    )
