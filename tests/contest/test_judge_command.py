"""`treeserve contest judge`: verdicts in a file, resumable, and never another run's."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import confined
import pytest

from treeserve.commands.main import main
from treeserve.contest.judging import program_judge
from treeserve.contest.judging.verdict_file import VerdictWriter, go_on, read_verdicts
from treeserve.contest.sandbox import bubblewrap

APPS = {
    "problem_id": 1,
    "question": "Double it.",
    "input_output": json.dumps({"inputs": ["1\n", "4\n"], "outputs": ["2\n", "8\n"]}),
    "difficulty": "introductory",
}
UNJUDGED = {"problem_id": 2, "question": "Nothing.", "input_output": ""}
RIGHT, ALSO_RIGHT = "print(int(input()) * 2)", "print( int(input())*2 )  # twice"
TEXTS = [RIGHT, "print(2)", ALSO_RIGHT, "print(", f"```python\n{RIGHT}\n```"]
CODES = ["AC", "WA", "AC", "CE", "AC"]


class Run:
    """The files of one run, and the command on them."""

    def __init__(self, folder: Path) -> None:
        self.problems = folder / "problems.jsonl"
        self.samples = folder / "samples.jsonl"
        self.verdicts = folder / "verdicts.jsonl"
        self.write_problems(APPS, UNJUDGED)
        self.write_samples(*self.records(TEXTS))

    @staticmethod
    def records(texts: list[str]) -> list[dict[str, Any]]:
        return [
            {"problem_id": "1", "sample_index": index, "text": text}
            for index, text in enumerate(texts)
        ]

    def write_problems(self, *records: Any) -> None:
        self.problems.write_text("".join(json.dumps(record) + "\n" for record in records))

    def write_samples(self, *records: Any) -> None:
        self.samples.write_text("".join(json.dumps(record) + "\n" for record in records))

    def judge(self, *options: str) -> int:
        files = [str(self.samples), "--problems", str(self.problems), "-o", str(self.verdicts)]
        return main(["contest", "judge", *files, "--jobs", "2", *options])

    def codes(self) -> list[str]:
        samples = read_verdicts(self.verdicts).samples
        return [s.verdict.code for s in sorted(samples, key=lambda s: s.sample_index)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    confined.confinement()
    return Run(tmp_path)


def test_every_sample_gets_a_verdict_and_equal_programs_are_run_once(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.judge() == 0
    assert run.codes() == CODES
    assert capsys.readouterr().out == (
        "5 samples: 3 AC, 1 WA, 1 CE; 3 different programs run; problems without cases: 1\n"
    )
    found = read_verdicts(run.verdicts)
    assert [problem.num_cases for problem in found.problems] == [2, 0]
    keys = {s.program_key for s in found.samples if s.verdict.code == "AC"}
    assert len(keys) == 1


def test_a_problem_without_cases_is_unjudged_and_never_passed(run: Run) -> None:
    run.write_samples({"problem_id": 2, "sample_index": 0, "text": RIGHT})
    assert run.judge() == 0
    assert run.codes() == ["unjudged"]


def test_samples_may_name_language_and_program(run: Run) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    cpp = '#include <cstdio>\nint main() { int n; scanf("%d", &n); printf("%d", 2 * n); }'
    run.write_samples(
        {"problem_id": 1, "sample_index": 0, "program": cpp, "language": "cpp"},
        {"problem_id": 1, "sample_index": 1, "text": "Look:\n```cpp\n" + cpp + "\n```\n"},
        {"problem_id": 1, "sample_index": 2, "program": cpp, "language": "python"},
    )
    assert run.judge() == 0
    assert run.codes() == ["AC", "AC", "CE"]


def test_a_run_that_was_killed_goes_on_where_it_was(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.judge() == 0
    lines = run.verdicts.read_text().splitlines(keepends=True)
    run.verdicts.write_text("".join(lines[:4]) + lines[4][:20])
    kept = lines[3]
    assert run.judge() == 0
    assert run.codes() == CODES
    assert kept in run.verdicts.read_text().splitlines(keepends=True)
    assert "1 of them judged before" in capsys.readouterr().out


def test_new_samples_of_the_same_run_are_added(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_samples(*run.records(TEXTS[:2]))
    assert run.judge() == 0
    run.write_samples(*run.records(TEXTS))
    assert run.judge() == 0
    assert run.codes() == CODES
    assert "2 of them judged before; 1 different program run" in capsys.readouterr().out


def test_what_is_all_judged_is_not_run_again(run: Run) -> None:
    assert run.judge() == 0
    before = run.verdicts.read_text()
    assert run.judge() == 0
    assert run.verdicts.read_text() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("limits", "with other limits and checker"),
        ("problems", "with other problems"),
        ("header", "with other samples"),
        ("sample", "sample 1 of problem '1' is another program"),
        ("fewer", "sample 4 of problem '1' is not among the samples"),
    ],
)
def test_another_runs_output_is_refused_and_left_as_it_is(
    run: Run, change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_samples({"kind": "header", "fingerprint": "a"}, *run.records(TEXTS))
    assert run.judge() == 0
    before = run.verdicts.read_text()
    options = ["--time-limit", "9"] if change == "limits" else []
    if change == "problems":
        run.write_problems(APPS | {"question": "Treble it."}, UNJUDGED)
    if change == "header":
        run.write_samples({"kind": "header", "fingerprint": "b"}, *run.records(TEXTS))
    if change == "sample":
        changed = run.records([RIGHT, "print(3)", *TEXTS[2:]])
        run.write_samples({"kind": "header", "fingerprint": "a"}, *changed)
    if change == "fewer":
        run.write_samples({"kind": "header", "fingerprint": "a"}, *run.records(TEXTS[:4]))
    capsys.readouterr()
    assert run.judge(*options) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert run.verdicts.read_text() == before


def test_a_checker_that_was_wrong_can_be_put_right(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not refused as another run's, where nothing was judged yet."""
    checker = tmp_path / "checker.txt"
    checker.write_text("raise SystemExit(0)")
    assert run.judge("--checker-program", str(checker)) == 2
    assert "--checker-program: " in capsys.readouterr().err
    assert not run.verdicts.exists()
    assert run.judge("--checker-program", str(checker.rename(tmp_path / "checker.py"))) == 0
    before = run.verdicts.read_text()
    (tmp_path / "other.txt").write_text("raise SystemExit(0)")
    assert run.judge("--checker-program", str(tmp_path / "other.txt")) == 2
    assert run.verdicts.read_text() == before


def test_two_judges_do_not_write_one_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.judge() == 0
    before = run.verdicts.read_text()
    with go_on(run.verdicts):
        assert run.judge() == 2
    assert "verdicts.jsonl is being written by another run" in capsys.readouterr().err
    assert run.verdicts.read_text() == before


def test_a_file_that_holds_no_verdicts_is_not_overwritten(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.verdicts.write_text("my diary\n")
    assert run.judge() == 2
    assert "verdicts.jsonl:1: not JSON" in capsys.readouterr().err
    assert run.verdicts.read_text() == "my diary\n"


def test_an_interrupt_ends_the_programs_and_keeps_what_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an end to the sleeping programs, it would hang for a minute."""
    monkeypatch.setattr(program_judge, "WALL_SLACK", 60.0)
    sleepers = [f"import time\ntime.sleep(9{i})" for i in range(3)]
    run.write_samples(*run.records([RIGHT, *sleepers]))
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    add = VerdictWriter.add

    def interrupted(self: VerdictWriter, sample: Any) -> None:
        add(self, sample)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(VerdictWriter, "add", interrupted)
    try:
        assert run.judge() == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert "stopped: 1 of 4 samples are judged; the same command goes on\n" in (
        capsys.readouterr().err
    )
    assert run.codes() == ["AC"]


def test_a_judge_that_is_killed_takes_its_programs_with_it(run: Run) -> None:
    mark = uuid.uuid4().hex
    run.write_samples(*run.records([f"import os\nos.execv('/bin/sleep', ['{mark}', '1000'])"]))
    files = [str(run.samples), "--problems", str(run.problems), "-o", str(run.verdicts)]
    command = [sys.executable, "-m", "treeserve", "contest", "judge", *files, "--time-limit", "99"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as judge:
        ended = os.pidfd_open(judge.pid)
        while not confined.running(mark):  # a judge that fails ends, and with it the waiting
            assert not select.select([ended], [], [], 0.05)[0]
        [program] = map(os.pidfd_open, confined.running(mark))
        judge.kill()
    assert select.select([program], [], [], 60.0)[0]
    assert not confined.running(mark)
    for descriptor in (ended, program):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"problem_id": 1, "sample_index": 0}, "fields 'text' and 'program': one of them"),
        ({"problem_id": 1, "sample_index": -1, "text": ""}, "field 'sample_index': expected an"),
        ({"sample_index": 0, "text": ""}, "field 'problem_id': expected a text or an integer"),
        ({"problem_id": 1, "sample_index": 0, "text": 7}, "field 'text': expected a text"),
        ({"problem_id": 1, "sample_index": 0, "program": 7}, "field 'program': expected a text"),
        (
            {"problem_id": 1, "sample_index": 0, "text": "", "language": "rust"},
            "field 'language': expected one of python, cpp, found 'rust'",
        ),
        ({"kind": "usage", "seconds": -1}, "field 'seconds': expected a number from 0"),
        ({"kind": "song"}, "field 'kind': expected 'header', 'sample' or 'usage'"),
        ([], "expected a JSON object"),
        ({"problem_id": 1, "sample_index": 9, "text": ""}, "sample 9 of problem '1' occurs twice"),
    ],
)
def test_a_bad_sample_is_named_and_the_rest_goes_on_if_asked(
    run: Run, record: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_samples({"problem_id": 1, "sample_index": 9, "text": RIGHT}, record)
    assert run.judge() == 2
    err = capsys.readouterr().err
    assert f"samples.jsonl:2: {words}" in err
    assert err.count("\n") == 1
    assert not run.verdicts.exists()
    assert run.judge("--keep-going") == 0
    assert f"samples.jsonl:2: {words}" in capsys.readouterr().err
    assert run.codes() == ["AC"]


def test_a_sample_of_an_unknown_problem_is_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_samples(*run.records([RIGHT]), {"problem_id": 9, "sample_index": 0, "text": ""})
    assert run.judge() == 2
    assert "field 'problem_id': '9' is not in" in capsys.readouterr().err
    assert run.judge("--keep-going") == 0
    assert run.codes() == ["AC"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["--time-limit", "0"], "--time-limit: must be above 0, got 0"),
        (["--time-limit", "nan"], "--time-limit: must be above 0, got nan"),
        (["--memory-limit", "-5"], "--memory-limit: must be above 0, got -5"),
        (["--tolerance", "-1"], "--tolerance: must be at least 0, got -1"),
        (["--checker-program", "/none.py"], "--checker-program: /none.py: cannot be read"),
        (["-o", "/none/verdicts"], "--output: /none/verdicts: cannot be written"),
    ],
)
def test_options_out_of_range_are_named(
    run: Run, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.judge(*options) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_without_bubblewrap_it_refuses_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    assert run.judge() == 2
    err = capsys.readouterr().err
    assert "bubblewrap is not installed: install bubblewrap (Debian, Ubuntu: apt-get" in err
    assert "--no-sandbox" in err
    assert not run.verdicts.exists()
    assert run.judge("--no-sandbox") == 0
    assert run.codes() == CODES
    assert read_verdicts(run.verdicts).head["sandbox"] == "no sandbox"


def test_a_bubblewrap_that_does_not_work_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container that allows no user namespaces."""
    run = Run(tmp_path)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to nobody
        Path(folder).chmod(0o755)
        fake = Path(folder, "bwrap")
        fake.write_text(
            "#!/bin/sh\n"
            "case $1 in --help) echo --json-status-fd --perms --size --clearenv;;\n"
            "--version) echo bubblewrap 9;;\n"
            "*) echo bwrap: No permissions to create a new namespace >&2; exit 1;; esac\n"
        )
        fake.chmod(0o755)
        monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: str(fake))
        assert run.judge() == 2
        err = capsys.readouterr().err
        assert "bubblewrap does not work here: bwrap: No permissions to create" in err
        assert "docker run" in err
        fake.write_text("#!/bin/sh\necho bubblewrap 0.1\n")
        assert run.judge() == 2
        assert "bubblewrap 0.1 is too old" in capsys.readouterr().err
