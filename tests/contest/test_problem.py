"""The problem record: its file, what is wrong with a bad one, and the prompt."""

import json
from pathlib import Path

import pytest

from treeserve.contest.compose import generate_problems
from treeserve.contest.problem import (
    STOP,
    ProblemFileError,
    extract_program,
    read_problems,
    render_answer,
    render_example,
    render_prompt,
    render_question,
    write_problems,
)
from treeserve.embedded import FEW_SHOT_FILE, PROBLEMS_FILE

PROBLEMS = generate_problems("train", 3, seed=2)


def test_written_problems_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    write_problems(path, PROBLEMS)
    path.write_text(path.read_text() + "\n")
    assert read_problems(path) == PROBLEMS


def _spoil(tmp_path: Path, change: dict[str, object], drop: str = "") -> Path:
    path = tmp_path / "bad.jsonl"
    write_problems(path, PROBLEMS)
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[1]), **change}
    record.pop(drop, None)
    lines[1] = json.dumps(record)
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({}, "solution", "field 'solution' is missing"),
        ({"points": 3}, "", "unknown field 'points'"),
        ({"statement": " "}, "", "field 'statement'"),
        ({"title": 7}, "", "field 'title'"),
        ({"difficulty": "hard"}, "", "field 'difficulty'"),
        ({"difficulty": True}, "", "field 'difficulty'"),
        ({"hidden_cases": []}, "", "field 'hidden_cases'"),
        ({"hidden_cases": ["1"]}, "", r"field 'hidden_cases\[0\]'"),
        ({"sample_cases": [{"stdin": "1"}]}, "", r"field 'sample_cases\[0\]': field 'stdout'"),
        ({"sample_cases": [{"stdin": "1", "stdout": 2}]}, "", "field 'stdout': expected a text"),
        ({"composition": "list"}, "", "field 'composition'"),
    ],
)
def test_a_bad_record_is_named(
    tmp_path: Path, change: dict[str, object], drop: str, message: str
) -> None:
    path = _spoil(tmp_path, change, drop)
    with pytest.raises(ProblemFileError, match=message) as caught:
        read_problems(path)
    assert f"{path}:2: " in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[1]", '"text"'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ProblemFileError, match=r"bad.jsonl:2: (not JSON|expected a JSON object)"):
        read_problems(path)


def test_a_missing_file_and_repeated_ids_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProblemFileError, match="cannot be read"):
        read_problems(tmp_path / "none.jsonl")
    write_problems(tmp_path / "twice.jsonl", [PROBLEMS[0], PROBLEMS[0]])
    with pytest.raises(ProblemFileError, match="occurs twice"):
        read_problems(tmp_path / "twice.jsonl")


def test_prompts_share_their_examples() -> None:
    example, first, second = PROBLEMS
    prompt = render_prompt(first, [example])
    assert prompt == render_example(example) + render_question(first)
    assert render_prompt(second, [example]).startswith(render_example(example))
    assert render_prompt(first) == render_question(first)


def test_the_program_ends_at_the_stop_line() -> None:
    problem = PROBLEMS[0]
    assert render_answer(problem).endswith(STOP)
    assert extract_program(render_answer(problem) + "\n\nProblem:\n") == problem.solution
    assert extract_program("print(1)") == "print(1)\n"


def test_embedded_files_hold_many_compositions() -> None:
    problems, few_shot = read_problems(PROBLEMS_FILE), read_problems(FEW_SHOT_FILE)
    assert len({problem.composition for problem in problems}) == len(problems) == 40
    assert len(few_shot) >= 4
