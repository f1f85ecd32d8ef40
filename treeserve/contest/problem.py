"""The contest problem: its record, its JSON-lines file, and the prompt that a model sees."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from treeserve.errors import why_unreadable

STOP = "# end"
"""The line that ends every program of a prompt. The embedded model emits its end token right after
it.
"""


class ProblemFileError(ValueError):
    """A problem file that cannot be used; the message names the file, the line and the field."""


@dataclass(frozen=True)
class Case:
    """One run of a program: what it reads and what it must print."""

    stdin: str
    stdout: str


@dataclass(frozen=True)
class Problem:
    """A contest problem with a reference solution that passes every case.

    `composition` lists the parts the problem was built from, such as `("list", "filter:even",
    "reduce:sum")`; `difficulty` counts the parts that do something, from 1.
    """

    problem_id: str
    title: str
    difficulty: int
    statement: str
    solution: str
    sample_cases: tuple[Case, ...]
    hidden_cases: tuple[Case, ...]
    composition: tuple[str, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases, the samples first."""
        return self.sample_cases + self.hidden_cases


def render_task(problem: Problem) -> str:
    """The statement and the first sample case, which settles what the statement leaves open."""
    sample = problem.sample_cases[0]
    shown = f"Input:\n{sample.stdin.rstrip()}\nOutput:\n{sample.stdout.rstrip()}\n"
    return f"{problem.statement}\n{shown}"


def render_question(problem: Problem) -> str:
    """The problem as text, ending where the program begins."""
    return f"Problem:\n{render_task(problem)}Program:\n"


def render_answer(problem: Problem) -> str:
    """The reference solution and the stop line."""
    return f"{problem.solution.rstrip()}\n{STOP}"


def render_example(problem: Problem) -> str:
    """A solved problem as it stands in a few-shot prompt."""
    return f"{render_question(problem)}{render_answer(problem)}\n\n"


def render_prompt(problem: Problem, few_shot: Sequence[Problem] = ()) -> str:
    """The solved examples, then the problem; a model continues it with a program and `STOP`.

    Prompts of problems with the same examples share their text up to the question.
    """
    return "".join(render_example(example) for example in few_shot) + render_question(problem)


def extract_program(completion: str) -> str:
    """The program in a model's continuation of a prompt: all before the stop line."""
    return completion.split(STOP, 1)[0].rstrip() + "\n"


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write one problem per line as JSON, replacing the file."""
    lines = [json.dumps(asdict(problem), ensure_ascii=False) for problem in problems]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_problems(path: Path) -> list[Problem]:
    """Read a JSON-lines file of problems; blank lines are skipped.

    Raises ProblemFileError, which names file, line and field, where the file is not as
    `write_problems` writes it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemFileError(f"{path}: cannot be read: {why_unreadable(error)}") from error
    lines = enumerate(text.split("\n"), start=1)
    problems = [_parse_line(line, f"{path}:{number}") for number, line in lines if line.strip()]
    _check_unique_ids(path, problems)
    return problems


def _parse_line(line: str, where: str) -> Problem:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ProblemFileError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ProblemFileError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return parse_problem(record, where)


def parse_problem(record: Mapping[str, Any], where: str) -> Problem:
    """The problem of one record.

    Raises ProblemFileError, which names `where` and the field.
    """
    _check_field_names(record, frozenset(Problem.__dataclass_fields__), where)
    difficulty = record["difficulty"]
    if type(difficulty) is not int or difficulty < 1:
        raise ProblemFileError(
            f"{where}: field 'difficulty': expected an integer from 1, found {difficulty!r}"
        )
    return Problem(
        problem_id=_text(record, "problem_id", where),
        title=_text(record, "title", where),
        difficulty=difficulty,
        statement=_text(record, "statement", where),
        solution=_text(record, "solution", where),
        sample_cases=_cases(record, "sample_cases", where),
        hidden_cases=_cases(record, "hidden_cases", where),
        composition=_tags(record, "composition", where),
    )


def _check_field_names(record: Mapping[str, Any], names: frozenset[str], where: str) -> None:
    for missing in sorted(names - record.keys()):
        raise ProblemFileError(f"{where}: field '{missing}' is missing")
    for unknown in sorted(record.keys() - names):
        raise ProblemFileError(
            f"{where}: unknown field '{unknown}'; known: {', '.join(sorted(names))}"
        )


def _text(record: Mapping[str, Any], field: str, where: str) -> str:
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        raise ProblemFileError(
            f"{where}: field '{field}': expected a text that is not empty, found {value!r}"
        )
    return value


def _tags(record: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    value = record[field]
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ProblemFileError(
            f"{where}: field '{field}': expected a list of texts, found {value!r}"
        )
    return tuple(value)


def _cases(record: Mapping[str, Any], field: str, where: str) -> tuple[Case, ...]:
    value = record[field]
    if not isinstance(value, list) or not value:
        raise ProblemFileError(
            f"{where}: field '{field}': expected a list of at least one case, found {value!r}"
        )
    return tuple(
        _case(entry, f"{where}: field '{field}[{index}]'") for index, entry in enumerate(value)
    )


def _case(entry: Any, where: str) -> Case:
    if not isinstance(entry, dict):
        raise ProblemFileError(
            f"{where}: expected an object with 'stdin' and 'stdout', found {entry!r}"
        )
    _check_field_names(entry, frozenset(Case.__dataclass_fields__), where)
    for name, value in entry.items():
        if not isinstance(value, str):
            raise ProblemFileError(f"{where}: field '{name}': expected a text, found {value!r}")
    return Case(entry["stdin"], entry["stdout"])


def _check_unique_ids(path: Path, problems: Sequence[Problem]) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.problem_id in seen:
            raise ProblemFileError(
                f"{path}: field 'problem_id': {problem.problem_id!r} occurs twice"
            )
        seen.add(problem.problem_id)
