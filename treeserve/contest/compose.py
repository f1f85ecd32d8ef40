"""Seeded contest problems, composed of atoms, with whole compositions held out of training."""

import random
from collections.abc import Callable
from types import CodeType
from typing import Literal

from treeserve.contest.composition import Composition, draw_composition, is_held_out
from treeserve.contest.problem import Case, Problem
from treeserve.contest.realise import realise

Split = Literal["train", "held_out"]
"""Which side of `is_held_out` problems come from."""

_CASE_TRIES = 30


def generate_problems(
    split: Split, count: int, seed: int = 0, hidden_cases: int = 6, min_difficulty: int = 1
) -> list[Problem]:
    """`count` problems of one split. The same arguments give the same problems on every Python.

    Problem i depends on (split, seed, i) alone, so a longer list starts with the shorter one.
    """
    return [
        generate_problem(split, seed, index, hidden_cases, min_difficulty) for index in range(count)
    ]


def generate_problem(
    split: Split, seed: int, index: int, hidden_cases: int = 6, min_difficulty: int = 1
) -> Problem:
    """One problem; its reference solution passes all of its cases."""
    rng = random.Random(f"treeserve contest/{split}/{seed}/{index}")
    problem_id = f"{split}-{min_difficulty}-{seed}-{index}"
    while True:
        composition = draw_composition(rng)
        wanted = is_held_out(composition.tags) == (split == "held_out")
        if not wanted or composition.difficulty < min_difficulty:
            continue
        problem = _finish(rng, composition, problem_id, hidden_cases)
        if problem is not None:
            return problem


def _finish(
    rng: random.Random, composition: Composition, problem_id: str, hidden: int
) -> Problem | None:
    task = realise(rng, composition)
    cases = _draw_cases(rng, task.solution, task.draw_stdin, 1 + hidden)
    if cases is None:
        return None
    return Problem(
        problem_id=problem_id,
        title=" ".join(
            tag.partition(":")[2] or tag for tag in composition.tags if not tag.endswith(":all")
        ),
        difficulty=composition.difficulty,
        statement=task.statement,
        solution=task.solution,
        sample_cases=cases[:1],
        hidden_cases=cases[1:],
        composition=composition.tags,
    )


def _draw_cases(
    rng: random.Random, solution: str, draw_stdin: Callable[[random.Random], str], count: int
) -> tuple[Case, ...] | None:
    """Cases that the solution answers without error, not all alike; None where draws gave none."""
    program = compile(solution, "solution", "exec")
    found: list[Case] = []
    for _ in range(_CASE_TRIES * count):
        stdin = draw_stdin(rng)
        stdout = _run_reference(program, stdin)
        if stdout is not None and stdout.strip():
            found.append(Case(stdin, stdout))
        if len(found) == count:
            varied = count < 4 or len({case.stdout for case in found}) > 1
            return tuple(found) if varied else None
    return None


def _run_reference(program: CodeType, stdin: str) -> str | None:
    """What a program of this generator prints; None where it fails. Never for a model's program:
    nothing confines it.
    """
    lines = iter(stdin.split("\n"))
    printed: list[str] = []

    def capture(*values: object) -> None:
        printed.append(" ".join(map(str, values)) + "\n")

    try:
        exec(program, {"input": lambda: next(lines), "print": capture})
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return "".join(printed)
