"""Finds the program in what a model wrote."""

import re
from dataclasses import dataclass

from treeserve.contest import problem as embedded
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.records.embedded import NAME as EMBEDDED
from treeserve.contest.sandbox.languages import LANGUAGES

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
_BY_FENCE = {fence: name for name, language in LANGUAGES.items() for fence in language.fences}


@dataclass(frozen=True)
class Program:
    """A program and its language, a key of LANGUAGES."""

    text: str
    language: str


def extract(text: str, problem: ContestProblem, language: str | None = None) -> Program:
    """The program in a completion.

    An embedded problem's ends at its stop line. Otherwise it is the last fenced block in a known
    language (or in none that is named), or the whole text where there is no fence. A HumanEval
    completion may go on where the prompt ends, or be the function as a whole.

    Args:
        language: Of the program; None takes the fence's, or Python.
    """
    if problem.source == EMBEDDED:
        return Program(embedded.extract_program(text), language or "python")
    blocks = [(_BY_FENCE.get(tag.lower()), tag, code) for tag, code in _FENCE.findall(text)]
    known = [(name, code) for name, tag, code in blocks if name is not None or not tag]
    if known:
        found, code = known[-1]
        language = language or found
    else:
        code = text
    language = language or "python"
    if problem.source == "humaneval" and language == "python":
        code = _with_prompt(code, problem)
    return Program(code.rstrip() + "\n", language)


def _with_prompt(code: str, problem: ContestProblem) -> str:
    prompt, name = problem.starter_code, problem.function_name
    if re.search(rf"^(?:async +)?def +{name}\b", code, re.M):
        return f"{prompt.rstrip()}\n    pass\n\n{code}"
    return prompt + _body(code)


def _body(code: str) -> str:
    """The lines of the function that was begun: up to the first that is not indented."""
    lines = code.split("\n")
    for index, line in enumerate(lines):
        if index and line and line[0] not in " \t)]}#":
            return "\n".join(lines[:index])
    return code
