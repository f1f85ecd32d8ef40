"""A real calibration of a small shape, and engines that plan by a stored one."""

import logging
import time
from dataclasses import asdict, replace

import pytest
import torch
from calibration.records import CONSTANTS, make_calibration
from calibration.steady import measure_steadily

from treeserve import LLM, SamplingParams
from treeserve.building import load_subject
from treeserve.calibration.calibrate import calibrate
from treeserve.calibration.measure import AttentionTimer
from treeserve.calibration.store import find_calibration, store_calibration
from treeserve.calibration.subject import make_subject
from treeserve.calibration.workloads import (
    make_step,
    one_prefix,
    scattered_slots,
    shared_workload,
)
from treeserve.config import EngineOptions
from treeserve.errors import CalibrationError, ConfigError
from treeserve.probe import AttentionLayer

CPU = torch.device("cpu")
PROMPT = list(range(3, 67))
"""64 tokens: too few to share by the built-in costs."""


def subject_of(**changes):
    layer = AttentionLayer(num_kv_heads=2, head_dim=32, num_heads=6, window=None)
    return make_subject([replace(layer, **changes)] * 4, "torch", torch.float32, CPU)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))


def kv_tokens_read(checkpoint, **options) -> int:
    llm = LLM(str(checkpoint), num_pages=64, **options)
    llm.generate([PROMPT], SamplingParams(n=8, max_tokens=4, ignore_eos=True, seed=1))
    return llm.sharing().kv_tokens_read


def test_a_calibration_finds_what_attention_costs_and_comes_back_from_the_store(cache, monkeypatch):
    """Every plan is run on the real backend; what it takes is what these constants say."""
    measure_steadily(monkeypatch, attends=True)
    lines = []
    calibration = calibrate(subject_of(), CPU, seconds=1, report=lines.append)
    found, expected = asdict(calibration.constants), asdict(CONSTANTS)
    assert found.pop("max_item_tokens") is expected.pop("max_item_tokens") is None
    assert found == pytest.approx(expected, rel=0.05, abs=1e-9)
    assert calibration.quality.why_not_trusted is None
    assert [c.batch for c in calibration.crossovers] == sorted(
        {c.batch for c in calibration.crossovers}
    )
    assert lines
    store_calibration(calibration)
    assert find_calibration(subject_of()) == calibration


def test_what_a_plan_takes_on_this_machine_is_measured():
    """However busy it is: shorter than no time and longer than the measuring is nothing."""
    slots = scattered_slots(1024)
    step = make_step(shared_workload(one_prefix(512, 4), slots))
    timer = AttentionTimer(subject_of(), CPU, len(slots), 4, [step], patience_seconds=600)
    started = time.perf_counter()
    [taken] = timer.time_in_turn([step], 1e-9)
    assert 0 < taken.layer < time.perf_counter() - started
    assert 0 < taken.first < time.perf_counter() - started


def test_an_attention_too_slow_to_be_measured_is_one_clear_error():
    with pytest.raises(CalibrationError, match="too slow"):
        calibrate(subject_of(), CPU, seconds=1e-3)


def test_the_cap_of_logits_is_part_of_what_is_measured():
    """Capped attention takes another path through the torch backend, at other costs."""
    assert subject_of(softcap=30.0).key != subject_of().key


def test_threads_are_part_of_what_is_measured():
    before = torch.get_num_threads()
    one = subject_of()
    try:
        torch.set_num_threads(before + 1)
        assert subject_of().key != one.key
    finally:
        torch.set_num_threads(before)


def test_a_layer_that_sees_everything_stands_for_a_model():
    window = AttentionLayer(num_kv_heads=1, head_dim=16, num_heads=1, window=8)
    whole = AttentionLayer(num_kv_heads=2, head_dim=32, num_heads=4, window=None)
    subject = make_subject([window, whole], "torch", torch.float32, CPU)
    assert (subject.num_kv_heads, subject.num_layers) == (2, 2)


def test_an_engine_plans_by_a_stored_calibration_and_says_so(cache, caplog, checkpoint_of):
    checkpoint = checkpoint_of("llama")
    built_in = kv_tokens_read(checkpoint)
    subject, _ = load_subject(EngineOptions(model=str(checkpoint)))
    store_calibration(make_calibration(subject, state_cost=0.0, sharing_cost=0.0))
    with caplog.at_level(logging.INFO, "treeserve"):
        assert kv_tokens_read(checkpoint) < built_in
        assert "attention costs: measured" in caplog.text
        caplog.clear()
        assert kv_tokens_read(checkpoint, calibration="off") == built_in
        assert "attention costs: built-in" in caplog.text


def test_an_engine_starts_beside_a_damaged_calibration(cache, checkpoint_of):
    checkpoint = checkpoint_of("llama")
    subject, _ = load_subject(EngineOptions(model=str(checkpoint)))
    store_calibration(make_calibration(subject)).write_text("{")
    assert kv_tokens_read(checkpoint) > 0


def test_an_unknown_mode_is_refused(checkpoint_of):
    with pytest.raises(ConfigError, match="calibration: 'on' is not one of auto, measure, off"):
        LLM(str(checkpoint_of("llama")), calibration="on")
