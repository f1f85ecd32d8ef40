"""The judge: right programs pass, wrong ones are told apart, and hostile ones harm nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from treeserve.contest import confined_child
from treeserve.contest.compose import generate_problems
from treeserve.contest.problem import Case, Problem
from treeserve.contest.run_program import ProgramRunner, judge, judge_many
from treeserve.contest.small_python import refusal

PROBLEM = Problem(
    problem_id="double",
    title="double",
    difficulty=1,
    statement="Print twice n.",
    solution="print(int(input()) * 2)\n",
    sample_cases=(Case("1\n", "2\n"),),
    hidden_cases=(Case("-4\n", "-8\n"), Case("0\n", "0\n")),
    composition=("number",),
)


@pytest.fixture(scope="module")
def runner() -> Iterator[ProgramRunner]:
    with ProgramRunner(cpu_seconds=0.3) as shared:
        yield shared


def test_the_reference_passes() -> None:
    assert judge(PROBLEM, PROBLEM.solution).passed


def test_many_are_judged_in_order() -> None:
    verdicts = judge_many(PROBLEM, ["print(0)", PROBLEM.solution, "print(0)"])
    assert [verdict.outcome for verdict in verdicts] == ["wrong", "passed", "wrong"]


@pytest.mark.parametrize(
    ("program", "outcome", "case"),
    [
        ("n = int(input())\nprint(n + n if n > 0 else 0)", "wrong", 1),
        ("print(input())", "wrong", 0),
        ("n = int(input())\nprint(n * 2 + 0 // (n + 4))", "error", 1),
        ("input()\nprint(input())", "error", 0),
        ("while True:\n    pass", "timeout", 0),
        ("def f():\n    return f()\nf()", "error", 0),
        ("x = [0] * 10 ** 10", "error", 0),
        ("x = []\nwhile True:\n    x += [x] * 100000", None, 0),
        ("while True:\n    print('x' * 1000)", "error", 0),
        ("print('x' * 10 ** 9)", "error", 0),
        ("list.append", "wrong", 0),
        ("", "wrong", 0),
    ],
)
def test_failures_are_told_apart(
    runner: ProgramRunner, program: str, outcome: str | None, case: int
) -> None:
    verdict = runner.judge(PROBLEM, program)
    assert not verdict.passed
    assert outcome is None or verdict.outcome == outcome
    assert verdict.case == case
    assert runner.judge(PROBLEM, PROBLEM.solution).passed


def test_a_program_that_no_timer_stops_costs_only_itself() -> None:
    with ProgramRunner(cpu_seconds=0.2, grace_seconds=0.3) as runner:
        verdict = runner.judge(PROBLEM, "print(sum(range(10 ** 12)))")
        assert verdict.outcome == "timeout"
        assert runner.judge(PROBLEM, PROBLEM.solution).passed


HELD_UP = """
import runpy, select, signal, sys
child = runpy.run_path(sys.argv[1])
signal.signal(signal.SIGPROF, child["_raise_time_is_up"])

def held_up(code, text, run_case=child["_run_case"]):
    select.select([], [], [], 0.6)
    return run_case(code, text)

child["run"].__globals__["_run_case"] = held_up
print(child["run"]("print(int(input()) * 2)", ["1"], 0.5, 0.0))
"""


def test_a_machine_that_stands_still_takes_no_time_from_a_program() -> None:
    """Nor a busy one: or a right program would fail beside others, and pass alone."""
    command = [sys.executable, "-c", HELD_UP, str(Path(confined_child.__file__))]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "{'outputs': ['2\\n'], 'failure': None, 'detail': ''}\n"


@pytest.mark.parametrize(
    "program",
    [
        "import os",
        "from os import system",
        "__import__('os')",
        "print(().__class__)",
        "print(input.__self__)",
        "print('{0.__class__}'.format(1))",
        "print(str.format('{0}', 1))",
        "x = (y for y in [1])\nprint(x.gi_frame)",
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "getattr(1, 'real')",
        "type(1)",
        "globals()",
        "print(__builtins__)",
        "__name = 1",
        "def f(__a):\n    pass",
        "print(**{'file': 1}, __x=1)",
        "try:\n    pass\nexcept:\n    pass",
        "class A:\n    pass",
        "with input() as x:\n    pass",
        "@print\ndef f():\n    pass",
        "async def f():\n    pass",
        "def f():\n    yield 1",
        "def f():\n    global x\n    x = 1",
        "del print",
        "raise 1",
        "match 1:\n    case int():\n        pass",
        "print(",
        "x\0",
        "(" * 500 + ")" * 500,
        "x = 1\n" * 5000,
    ],
)
def test_what_is_not_small_python_is_refused(runner: ProgramRunner, program: str) -> None:
    verdict = runner.judge(PROBLEM, program)
    assert verdict.outcome == "refused"
    assert verdict.detail


def test_reference_solutions_are_small_python() -> None:
    for problem in generate_problems("train", 200, 0, 0):
        assert refusal(problem.solution) is None


def test_one_program_leaves_nothing_for_the_next(runner: ProgramRunner) -> None:
    runner.judge(PROBLEM, "print = 5\nint = 3\nlen = 4\nleft = 1")
    assert runner.judge(PROBLEM, PROBLEM.solution).passed
    assert runner.judge(PROBLEM, "print(left)").outcome == "refused"
    assert runner.judge(PROBLEM, "if 0:\n    left = 1\nprint(left)").outcome == "error"


def test_trailing_spaces_and_lines_do_not_matter(runner: ProgramRunner) -> None:
    program = "print(int(input()) * 2, '')\nprint()"
    assert runner.judge(PROBLEM, program).passed
