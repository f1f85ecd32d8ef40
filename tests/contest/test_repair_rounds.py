"""Verdicts that decide what is drawn: repairs of samples that fail, and problems solved enough."""

import json
from pathlib import Path

import confined
import pytest
from sampling_house import Sampling
from test_sample_command import killed_after

from treeserve.commands.main import main
from treeserve.contest.judging.verdict import Verdict
from treeserve.contest.judging.verdict_file import read_verdicts
from treeserve.contest.records.contest_problem import ContestProblem, StdioCase
from treeserve.contest.sampling.background_judge import BackgroundJudge
from treeserve.contest.sampling.feedback import feedback
from treeserve.contest.sandbox import bubblewrap
from treeserve.embedded import FEW_SHOT_FILE, PROBLEMS_FILE

CASES = (StdioCase("1\n", "2\n"), StdioCase("3\n", "the secret\n"))
PROBLEM = ContestProblem("p", "test", "P", "", sample_cases=CASES[:1], hidden_cases=CASES[1:])


@pytest.fixture
def sampling(tmp_path: Path, checkpoint_of) -> Sampling:
    confined.confinement()
    return Sampling(tmp_path, checkpoint_of("llama"))


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (
            Verdict("WA", 0, 2, detail="line 1: expected '2', got '3'"),
            "wrong answer on sample case 1: line 1: expected '2', got '3'",
        ),
        (
            Verdict("WA", 1, 2, detail="line 1: expected 'the secret', got '3'"),
            "wrong answer on a hidden case",
        ),
        (
            Verdict("RE", 1, 2, detail="ZeroDivisionError: division by zero"),
            "it failed while running on a hidden case: ZeroDivisionError: division by zero",
        ),
        (
            Verdict("CE", None, 2, detail="SyntaxError:\n bad"),
            "it is no program: SyntaxError: bad",
        ),
        (Verdict("TLE", 0, 2), "time limit exceeded on sample case 1"),
    ],
)
def test_a_program_is_told_what_a_contest_would_tell_and_no_hidden_case(verdict, told):
    """Otherwise repairs would solve problems by copying what is expected."""
    assert feedback(verdict, PROBLEM) == told


def test_a_repair_computes_nothing_of_its_parent_again(sampling):
    options = ["--problems", "first:1", "--samples", "1", "--rounds", "3"]
    assert sampling.sample(*options) == 0
    samples = list(sampling.samples().values())
    assert [s["sample_index"] for s in samples] == [0, 100_000, 200_000, 300_000]
    assert [s.get("parent") for s in samples] == [None, 0, 100_000, 200_000]
    assert [s.get("round") for s in samples] == [None, 1, 2, 3]
    usages = [record for record in sampling.records() if record.get("kind") == "usage"]
    for parent, before, repair, own in zip(samples, usages, samples[1:], usages[1:], strict=False):
        assert "it is no program" in repair["feedback"]
        drawn = len(parent["token_ids"])
        # The tokens of this model are bytes.
        told = len(repair["feedback"].encode())
        assert own["prompt_tokens"] == before["prompt_tokens"] + drawn + told
        # Of the parent only its last token was never an input.
        assert own["cached_tokens"] == before["prompt_tokens"] + drawn - 1
        assert own["computed_tokens"] == told + 1


@pytest.mark.slow
def test_repairs_that_were_killed_go_on_to_what_an_undisturbed_run_has(sampling, tmp_path):
    whole = tmp_path / "whole.jsonl"
    options = ["--problems", "first:3", "--samples", "4", "--rounds", "2"]
    assert sampling.sample(*options, output=whole) == 0
    assert len(sampling.samples(whole)) == 3 * 4 * 3
    killed_after(sampling, 15, *options)
    assert sampling.sample(*options) == 0
    assert sampling.samples() == sampling.samples(whole)


def test_rounds_can_be_added_to_samples_that_are_there(sampling, tmp_path):
    whole = tmp_path / "whole.jsonl"
    assert sampling.sample("--samples", "3", "--rounds", "1", output=whole) == 0
    assert sampling.sample("--samples", "3") == 0
    assert sampling.sample("--samples", "3", "--rounds", "1") == 0
    assert sampling.samples() == sampling.samples(whole)


def test_fewer_samples_than_are_there_may_be_repaired_further(sampling):
    one = ["--problems", "first:2"]
    assert sampling.sample(*one, "--samples", "3", "--rounds", "1") == 0
    assert sampling.sample(*one, "--samples", "1", "--rounds", "2") == 0
    indices = [index for problem_id, index in sampling.samples()]
    assert sorted(indices) == sorted([0, 1, 2, 100_000, 100_001, 100_002, 200_000] * 2)


def test_a_repair_that_the_model_has_no_room_for_ends_its_sample_alone(sampling, capsys):
    options = ["--problems", "first:2", "--samples", "1", "--rounds", "12"]
    assert sampling.sample(*options) == 0
    out = capsys.readouterr().out
    assert "; 2 more repairs would be too long; " in out
    number = len(sampling.samples())
    assert 4 < number < 2 * 13
    assert f"2 samples of 2 problems and {number - 2} repairs" in out


def test_a_problem_without_cases_is_not_repaired(sampling):
    record = {"problem_id": 1, "question": "Say something.", "input_output": ""}
    sampling.problems.write_text(json.dumps(record))
    assert sampling.sample("--samples", "2", "--rounds", "2") == 0
    assert sampling.samples().keys() == {("1", 0), ("1", 1)}


def test_verdicts_need_the_sandbox_unless_told_otherwise(sampling, monkeypatch, capsys):
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    assert sampling.sample("--rounds", "1") == 2
    err = capsys.readouterr().err
    assert "bubblewrap is not installed" in err
    assert "--no-sandbox" in err
    assert not sampling.output.exists()


@pytest.mark.slow
def test_the_embedded_model_stops_at_a_problem_it_has_solved(tmp_path, monkeypatch, capsys):
    """The judge is as fast as the model here: how much is drawn too much hangs on nothing else."""
    confined.confinement()
    take = BackgroundJudge.take

    def take_all(judge):
        while judge._waiting:
            judge._see(judge._results.get())
        return take(judge)

    monkeypatch.setattr(BackgroundJudge, "take", take_all)
    output = str(tmp_path / "samples.jsonl")
    command = ["contest", "sample", str(PROBLEMS_FILE), "-o", output, "--dtype", "float32"]
    command += ["--example-file", str(FEW_SHOT_FILE), "--examples", "4", "--max-tokens", "128"]
    command += ["--problems", "first:3", "--samples", "48", "--num-pages", "1000"]
    assert main([*command, "--enough-passing", "2"]) == 0
    verdicts = str(tmp_path / "verdicts.jsonl")
    assert main(["contest", "judge", output, "--problems", str(PROBLEMS_FILE), "-o", verdicts]) == 0
    passing: dict[str, int] = {}
    number: dict[str, int] = {}
    for judged in read_verdicts(Path(verdicts)).samples:
        number[judged.problem_id] = number.get(judged.problem_id, 0) + 1
        passing[judged.problem_id] = passing.get(judged.problem_id, 0) + judged.verdict.passed
    assert any(count < 48 for count in number.values())
    assert all(passing[name] >= 2 for name, count in number.items() if count < 48)
    capsys.readouterr()
    before = Path(output).read_bytes()
    assert main([*command, "--enough-passing", "2"]) == 0
    assert Path(output).read_bytes() == before


def test_repairs_are_in_no_estimate_and_reported_by_round(tmp_path, capsys):
    """They know what was wrong: counted among first attempts, they would flatter pass@k."""
    confined.confinement()
    case = {"input": ["1\n"], "output": ["2\n"]}
    problem = {"name": "p", "description": "Double.", "public_tests": case}
    problems, samples = tmp_path / "problems.jsonl", tmp_path / "samples.jsonl"
    problems.write_text(json.dumps(problem))
    records = [
        {"problem_id": "p", "sample_index": 0, "text": "print(1)"},
        {"problem_id": "p", "sample_index": 100_000, "text": "print(2)", "parent": 0, "round": 1},
    ]
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    verdicts = str(tmp_path / "verdicts.jsonl")
    assert (
        main(["contest", "judge", str(samples), "--problems", str(problems), "-o", verdicts]) == 0
    )
    capsys.readouterr()
    assert main(["contest", "report", verdicts, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["solved_by_round"] == [0, 1]
    assert [(e["k"], e["value"]) for e in report["pass_at_k"]] == [(1, 0.0)]
    assert report["verdicts"] == {"AC": 1, "WA": 1}
    assert main(["contest", "report", verdicts]) == 0
    out = capsys.readouterr().out
    assert "0 of 1 problems solved by at least one sample" in out
    assert "with one repair of each sample that fails: 1 of 1 problems solved" in out
