"""Engines plan by what was measured, measure where they are told to, and start in any case."""

import pytest
import torch

from treeserve.attention.backend import default_cost_model
from treeserve.calibration import choice
from treeserve.calibration.choice import choose_costs
from treeserve.calibration.store import find_calibration
from treeserve.calibration.subject import make_subject
from treeserve.errors import CalibrationError
from treeserve.probe import AttentionLayer

CPU = torch.device("cpu")
BUILT_IN = default_cost_model("torch", 2 * 2 * 16)


@pytest.fixture
def subject(monkeypatch, tmp_path):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    layer = AttentionLayer(num_kv_heads=2, head_dim=16, num_heads=4, window=None)
    return make_subject([layer] * 2, "torch", torch.float32, CPU)


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_on_a_cpu_nothing_is_measured_unasked(subject, mode):
    lines = []
    costs = choose_costs(mode, subject, CPU, lines.append)
    assert (costs.model, costs.source) == (BUILT_IN, "built-in")
    assert lines == []


def test_what_cannot_be_measured_is_planned_by_built_in_costs(subject, caplog):
    costs = choose_costs("measure", subject, CPU, print, seconds=1e-9)
    assert costs.model == BUILT_IN
    assert "planning by built-in costs" in caplog.text
    assert find_calibration(subject) is None


@pytest.mark.parametrize(
    ("mode", "device", "measures"),
    [("measure", "cpu", True), ("auto", "cuda", True), ("off", "cuda", False)],
)
def test_who_measures(subject, monkeypatch, mode, device, measures):
    asked = []

    def refuse(subject, device, **_):
        asked.append(device)
        raise CalibrationError("calibration: not today")

    monkeypatch.setattr(choice, "calibrate", refuse)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    choose_costs(mode, subject, torch.device(device), print)
    assert asked == [torch.device(device)] * measures
