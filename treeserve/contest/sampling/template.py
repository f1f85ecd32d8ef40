"""Prompt templates: a problem and its solution as text, from a file or a format's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from treeserve.contest.problem import STOP
from treeserve.contest.records.contest_problem import (
    CallCase,
    Case,
    ContestProblem,
    StdioCase,
    TestCase,
)
from treeserve.errors import ConfigError, why_unreadable

_HEAD_END = "%%\n"
_SOLUTION = "solution"
_EMBEDDED = (
    "Problem:\n{statement}\nInput:\n{sample_input}\nOutput:\n{sample_output}\nProgram:\n"
    f"{{solution}}\n{STOP}\n\n"
)
_FENCED = "Problem:\n{statement}\n\n{task}\n```python\n{solution}\n```\n\n"
_WITH_SAMPLES = "Problem:\n{statement}\n{samples}\n{task}\n```python\n{solution}\n```\n\n"
_FENCE_END = "\n```"

TEMPLATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "embedded": (_EMBEDDED, (STOP,)),
    "apps": (_FENCED, (_FENCE_END,)),
    "humaneval": (
        "{statement}{solution}\n\n",
        ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", _FENCE_END),
    ),
    "mbpp": (_WITH_SAMPLES, (_FENCE_END,)),
    "livecodebench": (_FENCED, (_FENCE_END,)),
    "codecontests": (_FENCED, (_FENCE_END,)),
}
"""Of each format: its template, and what ends a sample of it."""

REPAIRS: dict[str, str] = {
    "embedded": "\n\nThe program is wrong: {feedback}\nProgram:\n",
    "humaneval": "\n\n# The function above is wrong: {feedback}\n{statement}",
}
_REPAIR = "\n\nThe program is wrong: {feedback}\nThe program, put right:\n```python\n"

Values = dict[str, Callable[[ContestProblem], str]]


def _first_stdio(problem: ContestProblem) -> StdioCase:
    found = next((c for c in problem.sample_cases if isinstance(c, StdioCase)), None)
    return found or StdioCase("", "")


def _samples(problem: ContestProblem) -> str:
    return "".join(_shown(case, problem.function_name) for case in problem.sample_cases)


def _shown(case: Case, function_name: str | None) -> str:
    if isinstance(case, StdioCase):
        return f"Input:\n{case.stdin.rstrip()}\nOutput:\n{case.stdout.rstrip()}\n"
    if isinstance(case, TestCase):
        return f"{case.code.rstrip()}\n"
    assert isinstance(case, CallCase)
    arguments = ", ".join(map(repr, case.arguments))
    return f"{function_name}({arguments}) == {case.expected[0]!r}\n"


def _task(problem: ContestProblem) -> str:
    if problem.starter_code:
        return f"Complete this in Python:\n{problem.starter_code.rstrip()}"
    if problem.function_name is not None:
        return f"Write it in Python, as a function named {problem.function_name}."
    if any(isinstance(case, TestCase) for case in problem.cases):
        return "Write the Python code that passes these tests."
    return "Write a Python program that reads stdin and prints the answer."


VARIABLES: Values = {
    "problem_id": lambda problem: problem.problem_id,
    "title": lambda problem: problem.title,
    "difficulty": lambda problem: problem.difficulty,
    "statement": lambda problem: problem.statement,
    "sample_input": lambda problem: _first_stdio(problem).stdin.rstrip(),
    "sample_output": lambda problem: _first_stdio(problem).stdout.rstrip(),
    "samples": _samples,
    "task": _task,
    "starter_code": lambda problem: problem.starter_code,
    "function_name": lambda problem: problem.function_name or "",
}
"""What a template may name beside {solution}."""

Part = tuple[str, str | None]
"""Text, and the variable behind it."""


@dataclass(frozen=True)
class Template:
    """A solved problem as text. What a model is asked ends where its solution begins.

    Attributes:
        source: As it was written.
        head: Once, before everything.
        question: Up to the solution.
        closing: Behind it.
    """

    source: str
    head: str
    question: tuple[Part, ...]
    closing: tuple[Part, ...]

    def asked(self, problem: ContestProblem) -> str:
        """A problem, up to where its solution begins."""
        return _filled(self.question, problem, {})

    def solved(self, problem: ContestProblem) -> str:
        """A problem with its solution."""
        solution = problem.solution.rstrip()
        return self.asked(problem) + solution + _filled(self.closing, problem, {})

    def prompt(self, problem: ContestProblem, examples: Sequence[ContestProblem]) -> str:
        """Head, solved examples and the problem."""
        return self.head + "".join(map(self.solved, examples)) + self.asked(problem)


@dataclass(frozen=True)
class RepairTemplate:
    """What stands behind a program that failed, up to where the next one begins."""

    source: str
    parts: tuple[Part, ...]

    def text(self, problem: ContestProblem, verdict: str, feedback: str) -> str:
        """For one verdict."""
        return _filled(self.parts, problem, {"verdict": verdict, "feedback": feedback})


def parse_template(text: str, where: str) -> Template:
    """A template from its text: names in braces, `{{` and `}}` for braces, {solution} once.

    What stands before a line `%%` is written once, at the beginning.

    Raises ConfigError, which names `where`, the variable that does not exist and those there are.
    """
    head, found, body = text.partition(_HEAD_END)
    if not found or (head and not head.endswith("\n")):
        head, body = "", text
    parts = _parse(body, where, (*VARIABLES, _SOLUTION))
    positions = [index for index, (_, name) in enumerate(parts) if name == _SOLUTION]
    if len(positions) != 1:
        raise ConfigError(
            f"{where}: {{{_SOLUTION}}} must occur once, where the program begins; found "
            f"{len(positions)}"
        )
    [split] = positions
    before = (*parts[:split], (parts[split][0], None))
    return Template(text, _plain(head, where), before, tuple(parts[split + 1 :]))


def parse_repair_template(text: str, where: str) -> RepairTemplate:
    """The same for a repair, which has {verdict} and {feedback} and no {solution}."""
    return RepairTemplate(text, tuple(_parse(text, where, (*VARIABLES, "verdict", "feedback"))))


def template_of_format(name: str) -> Template:
    """A format's own."""
    return parse_template(TEMPLATES[name][0], f"the template of {name}")


def repair_template_of_format(name: str) -> RepairTemplate:
    """A format's own."""
    return parse_repair_template(REPAIRS.get(name, _REPAIR), f"the repair template of {name}")


def read_template_text(file: Path, option: str) -> str:
    """A file's text; ConfigError names the option."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {file}: cannot be read: {why_unreadable(error)}") from None


def _parse(text: str, where: str, names: Sequence[str]) -> list[Part]:
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; a brace that is text is written twice") from None
    parts: list[Part] = []
    for literal, name, form, conversion in pieces:
        if name is not None and (name not in names or form or conversion):
            given = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise ConfigError(
                f"{where}: there is no variable {{{given}}}; there are {', '.join(names)}; a brace "
                "that is text is written twice"
            )
        parts.append((literal, name))
    return parts


def _plain(text: str, where: str) -> str:
    return "".join(literal for literal, _ in _parse(text, where, ()))


def _filled(parts: Sequence[Part], problem: ContestProblem, own: dict[str, str]) -> str:
    values = {
        name: own[name] if name in own else VARIABLES[name](problem)
        for _, name in parts
        if name is not None
    }
    return "".join(text + (values[name] if name is not None else "") for text, name in parts)
