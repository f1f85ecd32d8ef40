"""The generator: the same for the same seed, right in its cases, honest in what it holds out."""

import hashlib
import random

import pytest

from treeserve.contest.compose import generate_problem, generate_problems
from treeserve.contest.composition import STRUCTURES, draw_composition, is_held_out
from treeserve.contest.problem import render_example
from treeserve.contest.run_program import ProgramRunner


def test_same_seed_gives_same_problems() -> None:
    first = generate_problems("train", 30, seed=4)
    assert first == generate_problems("train", 30, seed=4)
    assert first[:10] == generate_problems("train", 10, seed=4)
    assert first[17] == generate_problem("train", 4, 17)
    assert first != generate_problems("train", 30, seed=5)


def test_problems_do_not_change_between_versions() -> None:
    text = "".join(render_example(problem) for problem in generate_problems("held_out", 20, seed=9))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "5b1d677c77388929"


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_solutions_pass_their_own_cases(split: str) -> None:
    with ProgramRunner() as runner:
        for problem in generate_problems(split, 150, seed=11):
            verdict = runner.judge(problem, problem.solution)
            assert verdict.passed, (problem, verdict)


def test_case_outputs_vary() -> None:
    for problem in generate_problems("held_out", 100, seed=12):
        assert len({case.stdout for case in problem.cases}) > 1
        assert len(problem.sample_cases) == 1
        assert len(problem.hidden_cases) == 6


def test_held_out_compositions_never_occur_in_training() -> None:
    train = {problem.composition for problem in generate_problems("train", 3000, 0, 0)}
    held_out = {problem.composition for problem in generate_problems("held_out", 500, 0, 0)}
    assert not train & held_out
    assert not any(is_held_out(tags) for tags in train)
    assert all(is_held_out(tags) for tags in held_out)


def test_every_held_out_atom_is_seen_in_training() -> None:
    train = generate_problems("train", 5000, 0, 0)
    seen = {(problem.composition[0], tag) for problem in train for tag in problem.composition}
    for problem in generate_problems("held_out", 300, 0, 0):
        assert {(problem.composition[0], tag) for tag in problem.composition} <= seen


def test_about_an_eighth_of_compositions_is_held_out() -> None:
    rng = random.Random(0)
    held_out = sum(is_held_out(draw_composition(rng).tags) for _ in range(4000)) / 4000
    assert 0.08 < held_out < 0.2


def test_all_structures_and_difficulties_occur() -> None:
    problems = generate_problems("train", 500, 0, 0)
    assert {problem.composition[0] for problem in problems} == set(STRUCTURES)
    assert {problem.difficulty for problem in problems} >= {1, 2, 3, 4, 5}


def test_statements_are_phrased_in_many_ways() -> None:
    problems = generate_problems("train", 3000, 0, 0)
    assert len({problem.statement for problem in problems}) > 2900
    evens = [problem for problem in problems if "filter:even" in problem.composition]
    phrases = ("are even", "two equal whole halves", "divisible by two")
    for phrase in phrases:
        assert any(phrase in problem.statement for problem in evens)


def test_min_difficulty_bounds_the_problems() -> None:
    assert all(p.difficulty >= 4 for p in generate_problems("train", 50, 0, 0, min_difficulty=4))
