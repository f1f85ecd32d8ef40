"""`treeserve bench modules` with a tiny model: what each side saves, and a run that goes on."""

import json

import pytest

from treeserve.bench.modules import suite
from treeserve.bench.modules.sides import ModulesFailed
from treeserve.commands.main import main

TINY = ["--shape", "tiny", "--tokens", "40,60", "--rounds", "1", "--own-tokens", "7"]
MIX = ["--prompts", "4", "--modules", "3", "--module-tokens", "20", "--imports", "2"]
NO_ANSWERS = ["--problems", "0"]


def bench(*options: str) -> int:
    return main(["bench", "modules", *TINY, *MIX, *NO_ANSWERS, *options])


def test_modules_are_encoded_once_and_mixed_without_computing_them_again(capsys, tmp_path):
    file = tmp_path / "modules.json"
    assert bench("--json", "--output", str(file)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(file.read_text())
    assert [entry["length"] for entry in result["lengths"]] == [40, 60]
    assert all(len(entry["all_seconds"]["modules"]) == 1 for entry in result["lengths"])
    sides = result["mix"]["sides"]
    assert sides["modules, warm"]["computed_tokens"] == 4 * 7
    assert sides["modules, warm"]["module_tokens"] == 4 * 2 * 20
    assert sides["prefix"]["computed_tokens"] > 4 * 7
    assert sides["prefix"]["module_tokens"] == 0
    assert (result["dtype"], result["answers"]) == ("float32", None)
    assert main(["bench", "modules", "--from", str(file), "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert "| 60 |" in shown
    assert "| modules, warm |" in shown
    assert f"attention {result['backend']}" in shown


def test_a_run_that_breaks_off_keeps_its_parts_and_goes_on(capsys, tmp_path, monkeypatch):
    file = tmp_path / "modules.json"
    measure, measured = suite._measure_length, []

    def break_off(bench, chance, size, length, options, told):
        if length == 60 and not measured.count(60):
            measured.append(60)
            raise ModulesFailed("the power fails")
        measured.append(length)
        return measure(bench, chance, size, length, options, told)

    monkeypatch.setattr(suite, "_measure_length", break_off)
    assert bench("--output", str(file), "--go-on") != 0
    kept = json.loads(file.read_text())
    assert [entry["length"] for entry in kept["lengths"]] == [40]
    assert kept["mix"] is None
    assert main(["bench", "modules", "--from", str(file)]) == 0
    assert bench("--output", str(file), "--go-on") == 0
    whole = json.loads(file.read_text())
    assert measured == [40, 60, 60]
    assert whole["lengths"][0] == kept["lengths"][0]
    assert whole["date"] == kept["date"]
    assert whole["mix"] is not None
    assert bench("--output", str(file), "--go-on", "--tokens", "50") == 0
    lengths = json.loads(file.read_text())["lengths"]
    assert [entry["length"] for entry in lengths] == [40, 50, 60]
    assert lengths[::2] == whole["lengths"]
    capsys.readouterr()
    assert bench("--output", str(file), "--go-on", "--own-tokens", "8") != 0
    assert "--go-on: the earlier result is of other options.own_tokens; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--go-on",), "--go-on: needs --output"),
        (("--tokens", "3"), "--tokens: must be at least 5"),
        (("--tokens", "a"), "--tokens: 'a' is not a list of numbers"),
        (("--rounds", "0"), "--rounds: must be at least 1, got 0"),
        (("--imports", "4"), "--imports: must be at most --modules, 3"),
        (("--time-limit", "5"), "--time-limit: not for bench modules"),
    ],
)
def test_options_that_cannot_be_meant_are_one_clear_error(options, said, capsys):
    try:
        status = bench(*options)
    except SystemExit as ended:
        status = ended.code
    assert status != 0
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_answers_of_the_embedded_model_are_scored_against_exact_ones(capsys):
    options = ["--prompts", "0", "--problems", "1", "--examples", "2"]
    assert main(["bench", "modules", *TINY, *options, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    sides = answers["sides"]
    assert list(sides) == ["exact", "modules", "scaffold", "no examples"]
    assert sides["exact"]["max_difference"] == 0
    # A scaffold of all examples at the very beginning is the plain prompt, but for its steps.
    assert sides["scaffold"]["mean_difference"] <= sides["modules"]["mean_difference"]
    assert sides["modules"]["mean_difference"] > 0
