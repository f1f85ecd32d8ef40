"""`treeserve generate` in this process, with a tiny random model."""

import io
import json
import os
import re
import signal

import pytest

from treeserve import LLM, SamplingParams
from treeserve.commands.main import main
from treeserve.engine import Engine
from treeserve.runner import Runner


@pytest.fixture(scope="module")
def model(checkpoint_of) -> str:
    return str(checkpoint_of("llama"))


def run(*argv: str) -> int:
    return main(["generate", *argv])


def test_one_sample_is_its_text(capsys, model):
    assert run("abc", "--model", model, "--max-tokens", "6", "--seed", "4") == 0
    captured = capsys.readouterr()
    [expected] = LLM(model).generate("abc", SamplingParams(max_tokens=6, seed=4))
    assert captured.out.rstrip("\n") == expected.samples[0].text.rstrip("\n")
    assert re.fullmatch(
        r"prompt 3 tokens: 0 cached, 0 shared, 3 computed · completion \d tokens · KV reads .*\n",
        captured.err,
    )


def test_overlap_can_be_asked_for_and_changes_no_text(capsys, model, monkeypatch):
    same = "abc", "--model", model, "--max-tokens", "6", "--seed", "4", "--ignore-eos"
    assert run(*same, "--overlap", "off") == 0
    expected = capsys.readouterr().out
    monkeypatch.delattr(Engine, "_run")
    assert run(*same, "--overlap", "on") == 0
    assert capsys.readouterr().out == expected


def test_several_samples_have_headers(capsys, model):
    assert run("abc", "--model", model, "-n", "3", "--max-tokens", "2", "--ignore-eos") == 0
    out = capsys.readouterr().out
    assert re.findall(r"^== sample \d \(length, 2 tokens\)$", out, re.MULTILINE) == [
        f"== sample {index} (length, 2 tokens)" for index in range(3)
    ]


def test_machines_get_json_only(capsys, model):
    options = ["-n", "2", "--max-tokens", "4", "--logprobs", "1", "--ignore-eos", "--json"]
    assert run("abc", "--model", model, *options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert records[-1]["total"]["completion_tokens"] == 8
    tokens = [r["token_ids"] for r in records if r.get("sample_index") == 1]
    assert sum(map(len, tokens)) == 4


def test_a_tree_says_what_sharing_saved(capsys, tmp_path, model):
    file = tmp_path / "tree.json"
    branches = [{"text": text, "n": 8} for text in ("one", "two", "three")]
    params = {"max_tokens": 4, "ignore_eos": True}
    file.write_text(json.dumps({"text": "x" * 400, "params": params, "branches": branches}))
    assert run("--tree", str(file), "--model", model) == 0
    captured = capsys.readouterr()
    assert captured.out.count("== branch 2, sample ") == 8
    [ratio] = re.findall(r"\((\d+\.\d)x fewer\)", captured.err)
    assert float(ratio) > 2
    assert run("--tree", str(file), "--model", model, "--no-sharing") == 0
    assert "none shared" in capsys.readouterr().err


def test_a_tree_out_of_range_names_file_and_place(capsys, tmp_path, model):
    file = tmp_path / "tree.json"
    file.write_text('{"text": "a", "branches": [{"text": "b"}, {"text": "c", "n": 5000}]}')
    assert run("--tree", str(file), "--model", model) == 2
    assert capsys.readouterr().err == (
        f"treeserve generate: {file}: branches[1].n: must be between 0 and 1024, got 5000\n"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-n", "0"], "n: must be between 1 and 1024, got 0"),
        (["--max-tokens", "0"], "max_tokens: must be between 1 and"),
        (["--temperature", "nan"], "temperature: must be a number"),
        (["--stop-token-id", "999"], "stop_token_ids[0]: must be between 0 and 319, got 999"),
        (["--stop", ""], "stop[0]: must be a string of 1 to 256 characters"),
        (["--quantization", "int8"], "quantization: int8 is for dtype bfloat16, not float32"),
    ],
)
def test_options_out_of_range_are_named(capsys, model, options, words):
    assert run("abc", "--model", model, *options) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_an_interrupt_ends_it_quietly(capsys, model, monkeypatch):
    """It arrives while a step runs, which is then allowed to end."""
    run_step = Runner.launch
    handler_before = signal.getsignal(signal.SIGINT)

    def interrupted(self, *arguments):
        monkeypatch.undo()
        os.kill(os.getpid(), signal.SIGINT)
        return run_step(self, *arguments)

    monkeypatch.setattr(Runner, "launch", interrupted)
    assert run("abc", "--model", model, "--max-tokens", "9", "--ignore-eos") == 130
    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is handler_before


def test_a_prompt_comes_from_stdin(capsys, monkeypatch, model):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("héllo".encode())))
    assert run("--prompt-file", "-", "--model", model, "--max-tokens", "1") == 0
    assert "prompt 6 tokens" in capsys.readouterr().err


def test_an_argument_that_is_not_utf8_is_refused(capsys, model):
    assert run("a\udcff", "--model", model) == 2
    assert "prompt: is not valid Unicode text" in capsys.readouterr().err
