"""Numbers in, Prometheus' text format out."""

import itertools
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from treeserve.metrics import Metrics
from treeserve.server.measure import measured
from treeserve.types import Delta, Finished, FinishReason, StepNumbers, Usage

STEP = StepNumbers(
    num_rows=10,
    num_prompt_rows=7,
    num_drawn=3,
    running_samples=4,
    waiting_requests=2,
    used_pages=50,
    cached_pages=20,
    total_pages=100,
    work_items=6,
    shared_items=1,
    folded_segments=5,
    kv_tokens_read=30,
    kv_tokens_read_flat=90,
    evicted_tokens=8,
    plan_seconds=0.001,
    schedule_seconds=0.002,
    model_seconds=0.03,
)


def families(metrics: Metrics):
    return list(text_string_to_metric_families(metrics.render().decode()))


def values(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in families(metrics)
        for sample in family.samples
    }


def test_steps_add_up():
    metrics = Metrics()
    metrics.observe_step(STEP)
    metrics.observe_step(STEP)
    seen = values(metrics)
    expected = {
        "treeserve_step_rows_total prompt": 14,
        "treeserve_step_rows_total decode": 6,
        "treeserve_completion_tokens_total": 6,
        "treeserve_running_samples": 4,
        "treeserve_waiting_requests": 2,
        "treeserve_pages_used": 50,
        "treeserve_pages_cached": 20,
        "treeserve_pages_capacity": 100,
        "treeserve_work_items_total": 12,
        "treeserve_shared_items_total": 2,
        "treeserve_folded_segments_total": 10,
        "treeserve_kv_tokens_read_total": 60,
        "treeserve_kv_tokens_read_flat_total": 180,
        "treeserve_evicted_tokens_total": 16,
        "treeserve_step_seconds_sum": 0.064,
        "treeserve_plan_seconds_sum": 0.002,
        "treeserve_schedule_seconds_sum": 0.004,
        "treeserve_model_seconds_sum": 0.06,
    }
    assert {name: seen[name] for name in expected} == pytest.approx(expected)


def test_a_step_of_nothing_only_sets_the_gauges():
    metrics = Metrics()
    metrics.observe_step(STEP)
    metrics.observe_step(
        replace(STEP, num_rows=0, num_prompt_rows=0, num_drawn=0, running_samples=0)
    )
    assert values(metrics)["treeserve_running_samples"] == 0
    assert values(metrics)["treeserve_step_seconds_count"] == 1


def test_names_follow_the_conventions():
    metrics = Metrics()
    metrics.set_info(version="1.2", model="m")
    metrics.observe_step(STEP)
    for family in families(metrics):
        assert family.name.startswith("treeserve_")
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    assert values(metrics)["treeserve_info m 1.2"] == 1


def test_two_servers_share_no_metric():
    one, other = Metrics(), Metrics()
    one.observe_step(STEP)
    assert "treeserve_work_items_total" in values(other)
    assert values(other)["treeserve_work_items_total"] == 0


async def test_times_are_those_of_each_prompt_and_sample():
    """The clock ticks once per look: at the call, then at each event."""
    metrics = Metrics()
    clock = itertools.count().__next__
    usage = Usage(3, 0, 0, 3, 4)

    async def events():
        yield Delta((0,), 0, "a", (1,))
        yield Delta((1,), 0, "a", (1,), None, FinishReason.LENGTH)
        yield Delta((0,), 0, "bc", (2, 3), None, FinishReason.STOP)
        yield Finished((0,), usage)
        yield Finished((1,), usage)

    passed_on = [event async for event in measured(events(), metrics, lambda: float(clock()))]
    assert len(passed_on) == 5
    seen = values(metrics)
    assert seen["treeserve_time_to_first_token_seconds_sum"] == 1 + 2
    assert seen["treeserve_request_duration_seconds_sum"] == 4 + 5
    assert seen["treeserve_time_per_output_token_seconds_count"] == 1
    assert seen["treeserve_time_per_output_token_seconds_sum"] == (3 - 1) / 2
    assert seen["treeserve_samples_finished_total length"] == 1
    assert seen["treeserve_prompt_tokens_total computed"] == 6
