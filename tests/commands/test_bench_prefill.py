"""`treeserve bench prefill` on a CPU: the real engine beside transformers' forward pass."""

import json
from typing import Any

import pytest
import torch

from treeserve.bench.decode import models
from treeserve.bench.decode.sides import DecodeFailed
from treeserve.bench.prefill import suite
from treeserve.commands.main import main

SMALL = ["--device", "cpu", "--rounds", "2"]
VERSUS = ["--versus", "transformers"]


def measure(capsys, *options: str, status: int = 0) -> dict[str, Any]:
    assert main(["bench", "prefill", *SMALL, *options, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_prompt_of_every_length_is_compared_and_timed_in_turn(capsys):
    options = ["--tokens", "150,40", "--token-budget", "64", "--dtype", "bfloat16", *VERSUS]
    result = measure(capsys, *options)
    assert (result["benchmark"], result["token_budget"]) == ("prefill", 64)
    assert [case["tokens"] for case in result["cases"]] == [40, 150]
    for case in result["cases"]:
        assert case["status"] == "timed", case["reason"]
        assert case["rounds"] == 2
        assert case["tokens_per_second"] == case["tokens"] / case["seconds"]
        theirs = case["transformers_seconds"]
        assert case["transformers_tokens_per_second"] == case["tokens"] / theirs
        assert case["over_transformers"] == theirs / case["seconds"]
        parts = case["part_seconds"]
        assert min(parts.values()) >= 0
        assert parts["linear_layers"] > 0


def test_a_prompt_that_was_computed_before_is_not_timed():
    """It would be a prefill that computes next to nothing."""
    device = torch.device("cpu")
    model = models.make_random_model("tiny", torch.float32, device)
    options = suite.PrefillOptions(
        lengths=[40], rounds=1, token_budget=64, time_limit=None, backend="torch", versus=False
    )
    side = suite._engine_side(model, options, "torch")
    assert side.prefill(range(40)).seconds > 0
    assert side.prefill(range(1, 41)).seconds > 0
    with pytest.raises(DecodeFailed, match="cached that should be new"):
        side.prefill(range(40))


def test_other_logits_than_transformers_show_no_times_and_are_status_1(capsys, monkeypatch):
    make = models.make_random_module

    def other_weights(*arguments):
        module = make(*arguments)
        if arguments[-1] == "sdpa":
            module.lm_head.weight.data = module.lm_head.weight.data.flip(0)
        return module

    monkeypatch.setattr(models, "make_random_module", other_weights)
    [case] = measure(capsys, "--tokens", "20", *VERSUS, status=1)["cases"]
    assert (case["status"], case["seconds"]) == ("wrong", None)
    assert case["reason"].startswith("the last logits and transformers' differ: sample 0, token 0")


def test_the_table_fits_a_terminal_and_a_run_goes_on_where_it_broke_off(
    capsys, tmp_path, monkeypatch
):
    file = tmp_path / "prefill.json"
    kept = ["--tokens", "16,40", "--output", str(file), "--go-on"]
    measure_length = suite._Bench.measure

    def interrupted(self, length, *arguments):
        if length == 40:
            raise KeyboardInterrupt
        return measure_length(self, length, *arguments)

    monkeypatch.setattr(suite._Bench, "measure", interrupted)
    assert main(["bench", "prefill", *SMALL, *kept]) == 130
    before = json.loads(file.read_text())["cases"]
    assert [case["tokens"] for case in before] == [16]
    monkeypatch.undo()
    capsys.readouterr()
    assert main(["bench", "prefill", *SMALL, *kept]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 120
    cases = json.loads(file.read_text())["cases"]
    assert cases[:1] == before
    assert [case["tokens"] for case in cases] == [16, 40]
    assert main(["bench", "prefill", "--from", str(file), "--markdown"]) == 0
    assert "| 40 |" in capsys.readouterr().out
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization": "int8"}))
    assert main(["bench", "prefill", *SMALL, *kept]) == 2
    assert "--go-on: the earlier result is of other quantization; " in capsys.readouterr().err


def test_a_prompt_that_the_model_has_no_positions_for_is_skipped_with_the_reason(
    capsys, checkpoint_of
):
    options = ["--tokens", "20,9000", "--model", str(checkpoint_of("llama"))]
    short, long = measure(capsys, *options)["cases"]
    assert short["status"] == "timed"
    assert (long["status"], long["seconds"]) == ("skipped", None)
    assert long["reason"].startswith("too long: the model takes ")


def test_what_the_time_limit_leaves_out_is_told(capsys):
    result = measure(capsys, "--tokens", "16,40", "--time-limit", "1e-9")
    assert result["cases"] == []
    assert result["left_out"] == ["16 tokens", "40 tokens"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tokens", "0"], "--tokens: must be at least 1, got 0"),
        (["--rounds", "0"], "--rounds: must be at least 1, got 0"),
        (["--token-budget", "0"], "--token-budget: must be at least 1, got 0"),
        (["--shape", "llama-9b"], "--shape: 'llama-9b' is not one of llama-8b"),
        (["--go-on"], "--go-on: needs --output"),
    ],
)
def test_options_out_of_range_are_named(capsys, options, words):
    assert main(["bench", "prefill", *SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
