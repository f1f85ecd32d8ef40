"""A vague wording fits two atoms that differ, and the sample case is there to settle it."""

import re

import pytest

from treeserve.contest import number_atoms, word_atoms
from treeserve.contest.compose import generate_problems
from treeserve.contest.problem import render_question
from treeserve.contest.vague import VAGUE_GROUPS, vague_wording

ATOMS = {
    "filter": number_atoms.NUMBER_FILTERS + word_atoms.WORD_FILTERS,
    "map": number_atoms.NUMBER_MAPS + word_atoms.WORD_MAPS,
    "slice": number_atoms.NUMBER_SLICES,
    "reduce": (
        number_atoms.NUMBER_REDUCES + number_atoms.NUMBER_LISTINGS + word_atoms.WORD_REDUCES
    ),
}


@pytest.mark.parametrize("group", VAGUE_GROUPS, ids=lambda group: "/".join(group[1]))
def test_both_atoms_exist_and_differ(group):
    role, names, _ = group
    first, second = ([atom for atom in ATOMS[role] if atom.name == name] for name in names)
    assert first
    assert second
    assert first[0].code != second[0].code


@pytest.mark.parametrize("group", VAGUE_GROUPS, ids=lambda group: "/".join(group[1]))
def test_a_wording_uses_the_parameters_that_its_atoms_have(group):
    role, names, vague = group
    atoms = [atom for atom in ATOMS[role] if atom.name in names]
    used = set(re.findall(r"{(\w)}", "".join(vague.nouns + vague.steps))) - {"s"}
    for atom in atoms:
        assert used <= set(re.findall(r"{(\w)}", atom.code))


def test_atoms_that_can_be_instructions_have_a_vague_instruction_too():
    for role in ("map", "slice"):
        for atom in ATOMS[role]:
            vague = vague_wording(role, atom.name)
            assert bool(vague.nouns) == bool(vague.steps)


def test_the_same_words_stand_for_different_programs():
    problems = generate_problems("train", 3000, hidden_cases=0)
    meant = {
        problem.solution.splitlines()[-1]
        for problem in problems
        if re.search(
            r"(print|output|report|write) the median of the \w+\.$", problem.statement, re.I
        )
    }
    assert meant == {"print(sorted(b)[len(b) // 2])", "print(sorted(b)[(len(b) - 1) // 2])"}


def test_the_question_shows_the_sample_case():
    [problem] = generate_problems("held_out", 1)
    question = render_question(problem)
    assert f"Input:\n{problem.sample_cases[0].stdin}" in question
    assert f"Output:\n{problem.sample_cases[0].stdout}" in question
    assert all(case.stdin not in question for case in problem.hidden_cases)
