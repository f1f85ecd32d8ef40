"""`treeserve calibrate`: measures once, shows what is stored, and fails in one line."""

import json

import pytest
import torch
from calibration.records import CONSTANTS, make_calibration
from calibration.steady import measure_steadily

from treeserve.building import load_subject
from treeserve.calibration import fit
from treeserve.calibration.store import calibration_path, store_calibration
from treeserve.commands.main import main
from treeserve.config import EngineOptions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "cache"))
    # A machine that runs tests is busy with them.
    measure_steadily(monkeypatch)
    return tmp_path / "cache"


@pytest.fixture
def model(checkpoint_of) -> list[str]:
    return ["--model", str(checkpoint_of("llama"))]


@pytest.fixture
def stored(model):
    """The file of a calibration for the model that was made by hand."""
    subject, _ = load_subject(EngineOptions(model=model[1]))
    return store_calibration(make_calibration(subject))


def test_it_measures_and_stores_and_then_shows_what_it_has_stored(capsys, model):
    assert main(["calibrate", *model, "--seconds", "1", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["measured_now"]
    assert first["constants"]["token_cost"] == pytest.approx(CONSTANTS.token_cost, rel=0.05)
    assert {"subject", "constants", "quality", "crossovers", "path", "measured_at"} <= first.keys()
    assert main(["calibrate", *model, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert not second["measured_now"]
    assert second["constants"] == first["constants"]


def test_the_table_names_every_cost_the_crossover_and_the_file(capsys, model, stored):
    assert main(["calibrate", *model, "--show"]) == 0
    captured = capsys.readouterr()
    for words in (
        "reading a token once more           0.030         1",
        "merging states at all              80.000     2,667",
        "missed by 5% in the median",
        "     2 rows, tokens              4,096    > 4,096",
        "     8 rows, tokens                512        256",
        str(stored),
        "--force measures again",
    ):
        assert words in captured.out
    assert captured.err == ""


def test_force_measures_again(capsys, model, stored):
    before = stored.read_text()
    assert main(["calibrate", *model, "--force", "--seconds", "1"]) == 0
    captured = capsys.readouterr()
    assert "plans in turn" in captured.err
    assert f"stored in {stored} after" in captured.out
    assert stored.read_text() != before


def test_show_of_nothing_is_status_1_and_one_line(capsys, model):
    assert main(["calibrate", *model, "--show"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "none is stored" in captured.err


def test_what_cannot_be_trusted_is_not_stored(capsys, model, monkeypatch):
    monkeypatch.setattr(fit, "LARGEST_P90_ERROR", -1.0)
    assert main(["calibrate", *model, "--seconds", "1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "so nothing is stored; try again" in captured.err.splitlines()[-1]
    subject, _ = load_subject(EngineOptions(model=model[1]))
    assert not calibration_path(subject).exists()


def test_a_cache_that_cannot_be_written_is_status_1(capsys, model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "file"))
    assert main(["calibrate", *model, "--seconds", "1"]) == 1
    assert "cannot write" in capsys.readouterr().err.splitlines()[-1]


def test_threads_are_those_of_the_engine_that_is_meant(capsys, model):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        subject, _ = load_subject(EngineOptions(model=model[1]))
    finally:
        torch.set_num_threads(before)
    store_calibration(make_calibration(subject))
    assert main(["calibrate", *model, "--show", "--threads", str(before + 1)]) == 0
    assert f"{before + 1} threads" in capsys.readouterr().out
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--show", "--force"], "--force: not with --show"),
        (["--seconds", "0"], "--seconds: must be more than 0"),
        (["--threads", "0"], "--threads: must be at least 1"),
        (["--device", "tpu"], "device: 'tpu'"),
        (["--sharing", "off"], "unknown argument '--sharing'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(capsys, arguments, words):
    try:
        status = main(["calibrate", *arguments])
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    assert status == 2
    assert words in captured.err
    assert captured.err.count("\n") == 1
