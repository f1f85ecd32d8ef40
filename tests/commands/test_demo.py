"""`treeserve demo`, with a tiny random model that solves nothing."""

import os
import re
from contextlib import contextmanager

import pytest
from server.http_door.live import live_server

from treeserve.commands import demo
from treeserve.commands.main import main
from treeserve.commands.server_process import RunningServer
from treeserve.contest.compose import generate_problems
from treeserve.contest.judging.samples import Sample, read_samples
from treeserve.contest.problem import write_problems
from treeserve.contest.sandbox import bubblewrap


@pytest.fixture
def files(tmp_path) -> list[str]:
    problems, examples = tmp_path / "problems.jsonl", tmp_path / "examples.jsonl"
    write_problems(problems, generate_problems("held_out", 3))
    write_problems(examples, generate_problems("train", 1))
    return ["--problem-file", str(problems), "--example-file", str(examples)]


@pytest.mark.slow
def test_it_samples_at_a_real_server_judges_and_reports(capfd, files, checkpoint_of, tmp_path):
    sizes = ["--problems", "2", "--samples", "4", "--max-tokens", "8", "--num-pages", "256"]
    sizes += ["--sharing", "always", "--output", str(tmp_path / "out")]
    assert main(["demo", *files, *sizes, "--model", str(checkpoint_of("llama"))]) == 0
    out = capfd.readouterr().out
    commands = [line.split()[3] for line in out.splitlines() if line.startswith("$ treeserve ")]
    assert commands[0] == "sample"
    assert "8 samples of 2 problems; 64 tokens in " in out
    assert len(read_samples(tmp_path / "out" / "samples.jsonl").samples) == 8
    assert "-- no sample passes its 7 cases" in out
    if commands[1:]:
        assert commands == ["sample", "judge", "report"]
        assert "0 of 2 problems solved by at least one sample" in out
        assert (tmp_path / "out" / "report.html").is_file()
    else:
        assert "bubblewrap" in out
    [ratio] = re.findall(r"\((\d+\.\d)x fewer\)\n$", out)
    assert float(ratio) > 2


def test_a_folder_that_cannot_be_made_is_named(capfd, files, tmp_path):
    folder = tmp_path / "taken"
    folder.write_text("")
    assert main(["demo", *files, "--output", str(folder)]) == 2
    assert f"--output: {folder}: cannot be made" in capfd.readouterr().err


def test_without_bubblewrap_programs_of_a_small_python_are_judged():
    """The demo goes on without it."""
    [problem] = generate_problems("train", 1)
    texts = [problem.solution, "print(", problem.solution]
    samples = [Sample(problem.problem_id, i, text) for i, text in enumerate(texts)]
    passing = demo.passing_confined([problem], [*samples, Sample("another", 0, texts[0])])
    assert list(passing) == [problem.problem_id]
    assert list(passing[problem.problem_id]) == [0, 2]


@pytest.mark.slow
def test_without_bubblewrap_the_demo_says_so_and_goes_on(
    capfd, files, checkpoint_of, tmp_path, monkeypatch
):
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)

    @contextmanager
    def server_of_this_process(options):
        with live_server(checkpoint_of("llama")) as live:
            server = live.service.server
            addresses = str(server.grpc_address), str(server.http_address)
            yield RunningServer(*addresses, model="llama", pid=os.getpid())

    monkeypatch.setattr(demo, "running_server", server_of_this_process)
    sizes = ["--problems", "1", "--samples", "2", "--max-tokens", "4", "--num-pages", "256"]
    sizes += ["--output", str(tmp_path / "out")]
    assert main(["demo", *files, *sizes, "--model", str(checkpoint_of("llama"))]) == 0
    out = capfd.readouterr().out
    assert "bubblewrap is not installed: install bubblewrap (Debian" in out
    assert "programs that keep to a small Python are run in a confined process instead" in out
    assert "0 samples pass: " in out


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
