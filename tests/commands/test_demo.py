"""`treeserve demo`, with a tiny random model that solves nothing."""

import re

import pytest

from treeserve.commands import demo
from treeserve.commands.main import main
from treeserve.contest.compose import generate_problems
from treeserve.contest.problem import write_problems
from treeserve.contest.sandbox import bubblewrap


@pytest.fixture
def files(tmp_path) -> list[str]:
    problems, examples = tmp_path / "problems.jsonl", tmp_path / "examples.jsonl"
    write_problems(problems, generate_problems("held_out", 3))
    write_problems(examples, generate_problems("train", 1))
    return ["--problem-file", str(problems), "--example-file", str(examples)]


@pytest.mark.slow
def test_it_asks_a_real_server_and_says_what_sharing_saved(capfd, files, checkpoint_of):
    sizes = ["--problems", "2", "--samples", "4", "--max-tokens", "8", "--num-pages", "256"]
    sizes += ["--sharing", "always"]
    assert main(["demo", *files, *sizes, "--model", str(checkpoint_of("llama"))]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "8 of 8 samples ended, 64 tokens" in captured.out
    assert "none of 4 samples passes its 7 cases" in captured.out
    assert "solved 0 of 2 problems; 0 of 8 programs pass every case" in captured.out
    [ratio] = re.findall(r"\((\d+\.\d)x fewer\)\n$", captured.out)
    assert float(ratio) > 2


def test_programs_are_judged_in_the_sandbox_or_it_says_in_what_else(capsys, monkeypatch):
    """Where bubblewrap cannot be had, the demo goes on with programs of a small Python."""
    [problem] = generate_problems("train", 1)
    programs = [problem.solution, "print(", problem.solution]
    found = demo.confinement()
    assert demo.passed(problem, programs, found) == [True, False, True]
    assert capsys.readouterr().out.startswith("judging in" if found else "sandbox: ")
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    assert demo.confinement() is None
    out = capsys.readouterr().out
    assert "bubblewrap is not installed: install bubblewrap (Debian" in out
    assert "programs that keep to a small Python are run in a confined process instead" in out
    assert demo.passed(problem, programs, None) == [True, False, True]


@pytest.mark.slow
def test_a_server_that_does_not_start_is_a_failure(capfd, files, tmp_path):
    assert main(["demo", *files, "--model", str(tmp_path)]) == 1
    assert capfd.readouterr().err == (
        f"treeserve serve: model: the folder {tmp_path} has no config.json\n"
        "treeserve demo: the server did not start\n"
    )


def test_a_missing_problem_file_is_named(capsys, tmp_path):
    file = tmp_path / "none.jsonl"
    assert main(["demo", "--problem-file", str(file)]) == 2
    err = capsys.readouterr().err
    assert f"treeserve demo: {file}: cannot be read" in err
    assert err.count("\n") == 1
