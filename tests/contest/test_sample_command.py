"""`treeserve contest sample` in this process, with a tiny random model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sampling_house import Sampling

from treeserve.contest.judging.samples import read_samples
from treeserve.contest.sampling.sample_file import SampleWriter
from treeserve.engine import Engine
from treeserve.runner import Runner

ROOT = Path(__file__).parent.parent.parent
_DIES = """
import os, signal, sys
from treeserve.commands.main import main
from treeserve.contest.sampling.sample_file import SampleWriter

add = SampleWriter.add_sample
left = int(sys.argv[1])

def add_and_die(self, sample):
    global left
    add(self, sample)
    left -= 1
    if left == 0:
        self._file.write(b'{"problem_id": "held')
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

SampleWriter.add_sample = add_and_die
main(sys.argv[2:])
"""


@pytest.fixture
def sampling(tmp_path: Path, checkpoint_of) -> Sampling:
    return Sampling(tmp_path, checkpoint_of("llama"))


def killed_after(sampling: Sampling, number: int, *options: str) -> None:
    """The command in a process that is killed while it writes the line after so many samples."""
    command = [sys.executable, "-c", _DIES, str(number), *sampling.words(*options)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def test_every_problem_gets_its_samples_and_shares_what_it_can(sampling, capsys):
    assert sampling.sample("--examples", "1") == 0
    samples = sampling.samples()
    assert samples.keys() == {(i, index) for i in sampling.problem_ids for index in range(20)}
    assert len({record["text"] for record in samples.values()}) > 60
    out = capsys.readouterr().out
    assert out.startswith("80 samples of 4 problems; ")
    assert "saved by sharing" in out
    # Two requests for each problem; the second finds all of its prompt, and has its logits kept.
    assert sampling.usage("computed_tokens") < sampling.usage("prompt_tokens") / 2
    assert sampling.usage("completion_tokens") == sum(
        len(record["token_ids"]) for record in samples.values()
    )
    assert sampling.usage("kv_tokens_read") > 0
    read = read_samples(sampling.output)
    assert len(read.samples) == 80
    assert set(read.usage) >= {"prompt_tokens", "computed_tokens", "kv_bytes_per_token", "seconds"}


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_what_an_undisturbed_one_has(sampling, tmp_path, capsys):
    whole = tmp_path / "whole.jsonl"
    assert sampling.sample("--max-running", "24", output=whole) == 0
    killed_after(sampling, 7, "--max-running", "24")
    killed_after(sampling, 30, "--max-running", "24")
    assert sampling.output.read_bytes().endswith(b'{"problem_id": "held')
    capsys.readouterr()
    assert sampling.sample("--max-running", "24") == 0
    assert "; 37 of them drawn before; " in capsys.readouterr().out
    assert sampling.samples() == sampling.samples(whole)


def test_only_what_is_missing_is_drawn_again(sampling, tmp_path):
    whole = tmp_path / "whole.jsonl"
    assert sampling.sample(output=whole) == 0
    lines = whole.read_text().splitlines(keepends=True)
    kept = [
        line for line in lines if "sample_index" not in line or json.loads(line)["sample_index"] % 3
    ]
    sampling.output.write_text("".join(line for line in kept if '"usage"' not in line))
    assert sampling.sample() == 0
    assert sampling.samples() == sampling.samples(whole)
    drawn = sum(
        len(r["token_ids"]) for r in sampling.samples().values() if r["sample_index"] % 3 == 0
    )
    assert sampling.usage("completion_tokens") == drawn
    before = sampling.output.read_bytes()
    assert sampling.sample() == 0
    assert sampling.output.read_bytes() == before


def test_more_samples_and_problems_may_be_asked_for_later(sampling, tmp_path):
    whole = tmp_path / "whole.jsonl"
    assert sampling.sample(output=whole) == 0
    assert sampling.sample("--samples", "5", "--problems", "first:2") == 0
    assert len(sampling.samples()) == 10
    assert sampling.sample("--samples", "18", "--problems", "1:4") == 0
    assert sampling.sample() == 0
    assert sampling.samples() == sampling.samples(whole)


@pytest.mark.parametrize("pages", [60, 90])
def test_a_pool_that_holds_few_samples_at_once_draws_the_same(sampling, tmp_path, pages):
    """Problems are let in one after the other, and samples that give way begin again."""
    whole = tmp_path / "whole.jsonl"
    assert sampling.sample("--max-tokens", "40", output=whole) == 0
    assert sampling.sample("--max-tokens", "40", "--num-pages", str(pages)) == 0
    assert sampling.samples() == sampling.samples(whole)


def test_no_more_is_begun_than_the_engine_has_room_for(sampling, monkeypatch):
    """Otherwise the queue would hold every problem, and a stop would throw its work away."""
    waiting: list[int] = []
    step = Engine.step

    def watched(self):
        result = step(self)
        waiting.append(self.scheduler.counts().waiting_requests)
        return result

    monkeypatch.setattr(Engine, "step", watched)
    assert sampling.sample("--max-running", "8") == 0
    assert max(waiting) <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "0.5"], "(with other sampling)"),
        (["--stop", "x"], "(with other sampling)"),
        (["--seed", "1"], "(with other seed)"),
        (["--examples", "1"], "(with other few-shot examples)"),
        (["--dtype", "bfloat16"], "(with other model)"),
        (["--language", "cpp", "--seed", "9"], "(with other language and seed)"),
        (["--template", "TEMPLATE"], "(with other template)"),
        (["--repair-template", "TEMPLATE"], "(with other repair template)"),
    ],
)
def test_another_runs_output_is_refused_and_left_as_it_is(
    sampling, tmp_path, options, words, capsys
):
    template = tmp_path / "template"
    template.write_text("{statement}" if "--repair-template" in options else "{solution}")
    assert sampling.sample("--samples", "1", "--problems", "first:1") == 0
    before = sampling.output.read_bytes()
    given = [str(template) if word == "TEMPLATE" else word for word in options]
    assert sampling.sample(*given) == 2
    err = capsys.readouterr().err
    assert f"--output: {sampling.output} is of another run {words}; name another file" in err
    assert err.count("\n") == 1
    assert sampling.output.read_bytes() == before


@pytest.mark.parametrize("content", ["my diary", "my diary\n", '{"kind": "header"}\n', "[]\n"])
def test_a_file_of_something_else_is_not_overwritten(sampling, content, capsys):
    sampling.output.write_text(content)
    assert sampling.sample() == 2
    assert "samples.jsonl:1: " in capsys.readouterr().err
    assert sampling.output.read_text() == content


def test_a_head_that_was_cut_off_is_written_again(sampling, tmp_path):
    assert sampling.sample("--samples", "1", "--problems", "first:1") == 0
    sampling.output.write_bytes(sampling.output.read_bytes()[:50])
    assert sampling.sample("--samples", "1", "--problems", "first:1") == 0
    assert len(sampling.samples()) == 1


def test_a_broken_line_in_the_middle_is_named(sampling, capsys):
    assert sampling.sample("--samples", "1") == 0
    lines = sampling.output.read_text().splitlines()
    for broken, words in (
        ("{", "not JSON"),
        ('{"problem_id": 1}', "not a sample of"),
        ("3", "expected"),
    ):
        sampling.output.write_text("\n".join([lines[0], broken, *lines[1:]]) + "\n")
        assert sampling.sample("--samples", "1") == 2
        assert f"samples.jsonl:2: {words}" in capsys.readouterr().err


def test_two_runs_do_not_write_one_file(sampling, capsys):
    assert sampling.sample("--samples", "1") == 0
    head = sampling.records()[0]
    with SampleWriter(sampling.output, head):
        assert sampling.sample("--samples", "1") == 2
    assert "samples.jsonl is being written by another run" in capsys.readouterr().err


def test_an_interrupt_keeps_what_is_done(sampling, tmp_path, monkeypatch, capsys):
    """It arrives while a step runs, which is then allowed to end."""
    whole = tmp_path / "whole.jsonl"
    assert sampling.sample(output=whole) == 0
    run_step, steps = Runner.launch, []
    handler_before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == 16:
            os.kill(os.getpid(), signal.SIGINT)
        return run_step(self, *arguments)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(Runner, "launch", interrupted)
            capsys.readouterr()
            assert sampling.sample("--max-running", "16") == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler_before)
    drawn = len(sampling.samples())
    assert 0 < drawn < 80
    assert capsys.readouterr().err == (
        f"stopped: {drawn} of 80 samples are drawn; the same command goes on\n"
    )
    assert sampling.sample() == 0
    assert sampling.samples() == sampling.samples(whole)


def test_samples_of_a_step_that_fails_are_drawn_by_the_next_run(sampling, monkeypatch, capsys):
    run_step, steps = Runner.launch, []

    def failing(self, *arguments):
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("the device is gone")
        return run_step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "launch", failing)
        assert sampling.sample("--max-running", "16") == 1
    out = capsys.readouterr().out
    assert " samples could not be drawn; the same command draws them again" in out
    assert sampling.sample() == 0
    assert len(sampling.samples()) == 80


def test_enough_different_programs_end_a_problem(sampling, tmp_path):
    whole = tmp_path / "whole.jsonl"
    assert sampling.sample("--samples", "40", output=whole) == 0
    assert sampling.sample("--samples", "40", "--enough-distinct", "3") == 0
    samples, undisturbed = sampling.samples(), sampling.samples(whole)
    assert samples.items() <= undisturbed.items()
    for problem_id in sampling.problem_ids:
        texts = [r["text"] for key, r in samples.items() if key[0] == problem_id]
        assert len(set(texts)) >= 3
    # The second request of a problem waits for what the first one gives.
    assert max(index for _, index in samples) < 16
    before = sampling.output.read_bytes()
    assert sampling.sample("--samples", "40", "--enough-distinct", "3") == 0
    assert sampling.output.read_bytes() == before


def test_a_prompt_that_is_too_long_is_its_problems_alone(sampling, capsys):
    records = [json.loads(line) for line in sampling.problems.read_text().splitlines()]
    records[1]["statement"] = "x" * 2000
    sampling.problems.write_text("".join(json.dumps(record) + "\n" for record in records))
    name = records[1]["problem_id"]
    assert sampling.sample() == 2
    err = capsys.readouterr().err
    assert f"problem '{name}': prompt: has 2" in err
    assert err.count("\n") == 1
    assert sampling.sample("--keep-going") == 0
    captured = capsys.readouterr()
    assert captured.err.count(f"left out: problem '{name}': prompt") == 1
    assert len(sampling.samples()) == 60


def test_bad_records_are_named_and_left_out_if_asked(sampling, capsys):
    sampling.problems.write_text(sampling.problems.read_text() + "{\n" + '{"a": 1}\n')
    assert sampling.sample() == 2
    assert "problems.jsonl:5: not JSON" in capsys.readouterr().err
    assert sampling.sample("--keep-going", "--samples", "1") == 0
    err = capsys.readouterr().err
    assert "left out: " in err
    assert "problems.jsonl:6: no reader knows a record with the fields a" in err
    assert len(sampling.samples()) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--samples", "0"], "--samples: must be at least 1, got 0"),
        (["--samples", "100001"], "--samples: must be at most 100,000, got 100001"),
        (["--max-tokens", "0"], "--max-tokens: must be at least 1, got 0"),
        (["--rounds", "-1"], "--rounds: must be at least 0, got -1"),
        (["--enough-passing", "0"], "--enough-passing: must be at least 1, got 0"),
        (["--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["--at-once", "2"], "--at-once: only with --server"),
        (["--examples", "9"], "--examples: 9 asked for, and 4 problems of the data set have a"),
        (["--example-file", "/none"], "/none: cannot be read"),
        (["--template", "/none"], "--template: /none: cannot be read"),
        (["--problems", "nobody"], "--problems: no problem has the id 'nobody'"),
        (["--temperature", "nan"], "temperature: must be a number"),
        (["--top-p", "0"], "top_p: must be above 0 and at most 1, got 0"),
        (["--top-k", "-1"], "top_k: must be between 0 and"),
        (["-o", "/none/samples"], "--output: /none/samples: cannot be written"),
        (["--server", "localhost:1", "--sharing", "off"], "--sharing: not with --server"),
    ],
)
def test_options_out_of_range_are_named(sampling, options, words, capsys):
    assert sampling.sample(*options) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_an_option_that_was_wrong_can_be_put_right(sampling, capsys):
    """A head that it left behind would refuse the next run."""
    assert sampling.sample("--temperature", "-1") == 2
    assert "temperature: must be between 0 and 100, got -1" in capsys.readouterr().err
    assert sampling.sample("--samples", "1") == 0
    assert len(sampling.samples()) == 4


def test_a_template_file_is_named_with_the_variable_that_it_has_wrong(sampling, tmp_path, capsys):
    template = tmp_path / "mine.txt"
    template.write_text("{statment}\n{solution}")
    assert sampling.sample("--template", str(template)) == 2
    err = capsys.readouterr().err
    assert f"--template: {template}: there is no variable {{statment}}; there are problem_id" in err
    template.write_text("Q {problem_id}: {solution}")
    assert sampling.sample("--template", str(template), "--samples", "2") == 0
    assert sampling.usage("prompt_tokens") == sum(len(f"Q {i}: ") for i in sampling.problem_ids)
