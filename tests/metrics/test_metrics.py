"""Numbers in, Prometheus' text format out."""

import itertools

import pytest
from prometheus_client.parser import text_string_to_metric_families

from treeserve.metrics import Metrics
from treeserve.metrics.declarations import MAX_TENANTS, OTHER_TENANTS
from treeserve.server.measure import measured
from treeserve.types import Delta, Finished, FinishReason, SampleTimings, StepNumbers, Usage

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
    cleared_tokens=3,
    awaiting_samples=1,
    startable_requests=5,
    reserved_pages=7,
    retained_tokens=64,
    preempted_samples=2,
    forked_requests=1,
    expired_requests=3,
    recomputed_tokens=11,
    failed_steps=1,
    cut_pieces=2,
    outweighed_segments=4,
    plain_rows=3,
    node_rows=12,
    node_rows_log2=(0, 1, 1, 1),
    max_row_states=3,
    max_branches=5,
    plan_is_reused=True,
    predicted_seconds=0.04,
    actual_seconds=0.05,
)


INFO = {
    "version": "1.2",
    "model": "m",
    "dtype": "float32",
    "device": "cpu",
    "backend": "torch",
    "policy": "tree",
    "sharing": "on",
}
TIMINGS = SampleTimings(0.25, 0.5, 2.0, 0.1)
BOUNDS = ("1.0", "2.0", "4.0", "8.0", "4096.0", "+Inf")


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
        "treeserve_kv_cache_usage_ratio": 0.3,
        "treeserve_work_items_total": 12,
        "treeserve_shared_items_total": 2,
        "treeserve_folded_segments_total too_small": 2,
        "treeserve_folded_segments_total outweighed": 8,
        "treeserve_kv_tokens_read_total": 60,
        "treeserve_kv_tokens_read_flat_total": 180,
        "treeserve_evicted_tokens_total room": 10,
        "treeserve_evicted_tokens_total clear": 6,
        "treeserve_awaiting_samples": 1,
        "treeserve_startable_requests": 5,
        "treeserve_pages_reserved": 7,
        "treeserve_retained_tokens": 64,
        "treeserve_preempted_samples_total": 4,
        "treeserve_forked_requests_total": 2,
        "treeserve_expired_requests_total": 6,
        "treeserve_recomputed_tokens_total": 22,
        "treeserve_steps_failed_total": 2,
        "treeserve_cut_pieces_total": 4,
        "treeserve_plain_rows_total": 6,
        "treeserve_plans_total reused": 2,
        "treeserve_plans_total rebuilt": 0,
        "treeserve_step_predicted_seconds_total": 0.08,
        "treeserve_step_actual_seconds_total": 0.1,
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
        STEP._replace(num_rows=0, num_prompt_rows=0, num_drawn=0, running_samples=0)
    )
    assert values(metrics)["treeserve_running_samples"] == 0
    assert values(metrics)["treeserve_step_seconds_count"] == 1


def test_two_servers_share_no_metric():
    one, other = Metrics(), Metrics()
    one.observe_step(STEP)
    assert "treeserve_work_items_total" in values(other)
    assert values(other)["treeserve_work_items_total"] == 0


@pytest.mark.parametrize(
    ("numbers", "outcome"),
    [
        (STEP._replace(shared_items=1), "shared"),
        (STEP._replace(shared_items=0, outweighed_segments=0), "too_small"),
        (STEP._replace(shared_items=0, outweighed_segments=1), "outweighed"),
        (STEP._replace(shared_items=0, folded_segments=0), "nothing_in_common"),
    ],
)
def test_every_step_says_once_what_became_of_sharing(numbers, outcome):
    metrics = Metrics()
    metrics.observe_step(numbers)
    seen = values(metrics)
    outcomes = ("shared", "too_small", "outweighed", "nothing_in_common", "off")
    assert {o: seen[f"treeserve_steps_total {o}"] for o in outcomes} == {
        o: o == outcome for o in outcomes
    }


def test_where_sharing_is_off_nobody_is_told_that_there_was_nothing_in_common():
    metrics = Metrics()
    metrics.set_info({**INFO, "sharing": "off"})
    metrics.observe_step(STEP._replace(shared_items=0, folded_segments=0))
    assert values(metrics)["treeserve_steps_total off"] == 1
    assert values(metrics)["treeserve_steps_total nothing_in_common"] == 0


def test_nodes_are_counted_by_their_rows():
    """Of 2 rows, of 3 or 4, of 5 to 8, twice; the buckets add up as Prometheus wants them."""
    metrics = Metrics()
    metrics.observe_step(STEP)
    metrics.observe_step(STEP)
    seen = values(metrics)
    buckets = {bound: seen[f"treeserve_node_rows_bucket {bound}"] for bound in BOUNDS}
    assert buckets == {"1.0": 0, "2.0": 2, "4.0": 4, "8.0": 6, "4096.0": 6, "+Inf": 6}
    assert seen["treeserve_node_rows_sum"] == 24


def test_a_node_of_more_rows_than_any_bucket_is_counted_all_the_same():
    metrics = Metrics()
    metrics.observe_step(STEP._replace(node_rows=40_000, node_rows_log2=(0,) * 16 + (1,)))
    seen = values(metrics)
    assert (seen["treeserve_node_rows_bucket 4096.0"], seen["treeserve_node_rows_count"]) == (0, 1)


def test_kv_is_counted_in_bytes_once_it_is_known_what_a_token_takes():
    metrics = Metrics()
    metrics.set_sizes(page_tokens=16, kv_token_bytes=1024)
    metrics.observe_step(STEP)
    seen = values(metrics)
    assert seen["treeserve_kv_read_bytes_total"] == 30 * 1024
    assert seen["treeserve_kv_read_flat_bytes_total"] == 90 * 1024
    assert seen["treeserve_page_tokens"] == 16


def test_a_step_that_was_not_predicted_says_nothing_of_predictions():
    metrics = Metrics()
    metrics.observe_step(STEP._replace(predicted_seconds=0.0))
    assert values(metrics)["treeserve_step_actual_ratio_count"] == 0
    assert values(metrics)["treeserve_step_actual_seconds_total"] == 0


def test_a_thousand_tenants_are_a_bounded_number_of_series():
    metrics = Metrics()
    for number in range(1000):
        metrics.observe_call("Generate", "OK", f"tenant-{number}")
    calls = {key: value for key, value in values(metrics).items() if "calls_total" in key}
    assert len(calls) == MAX_TENANTS + 1
    assert calls[f"treeserve_calls_total OK Generate {OTHER_TENANTS}"] == 1000 - MAX_TENANTS
    metrics.observe_call("Generate", "OK", "tenant-3")
    assert values(metrics)["treeserve_calls_total OK Generate tenant-3"] == 2


def test_hostile_names_of_tenants_do_not_break_the_text():
    """A certificate's common name may be anything."""
    metrics = Metrics()
    metrics.observe_call("Generate", "OK", 'a"} 1\n# TYPE evil counter\\')
    names = {family.name for family in families(metrics)}
    assert "evil" not in names
    assert values(metrics)['treeserve_calls_total OK Generate a"} 1\n# TYPE evil counter\\'] == 1


async def test_times_are_those_of_each_prompt_and_sample():
    """The clock ticks once per look: at the call, then at each event."""
    metrics = Metrics()
    clock = itertools.count()
    usage = Usage(3, 0, 0, 3, 4)

    async def events():
        yield Delta((0,), 0, "a", (1,))
        yield Delta((1,), 0, "a", (1,), None, FinishReason.LENGTH)
        yield Delta((0,), 0, "bc", (2, 3), None, FinishReason.STOP, timings=TIMINGS)
        yield Finished((0,), usage)
        yield Finished((1,), usage)

    def tick() -> float:
        return float(next(clock))

    passed_on = [event async for event in measured(events(), metrics, tick, tenant="t")]
    assert len(passed_on) == 5
    seen = values(metrics)
    expected = {
        "treeserve_time_to_first_token_seconds_sum t": 1 + 2,
        "treeserve_request_duration_seconds_sum t": 4 + 5,
        "treeserve_time_per_output_token_seconds_count": 1,
        "treeserve_time_per_output_token_seconds_sum": (3 - 1) / 2,
        "treeserve_samples_finished_total length t": 1,
        "treeserve_samples_finished_total stop t": 1,
        "treeserve_sample_tokens_total t": 4,
        "treeserve_sample_completion_tokens_count": 2,
        "treeserve_requests_finished_total t": 2,
        "treeserve_request_samples_sum": 2,
        "treeserve_prompt_tokens_total computed t": 6,
        "treeserve_request_queue_seconds_sum t": 0.25,
        "treeserve_request_queue_seconds_count t": 1,
        "treeserve_sample_time_to_first_token_seconds_sum": 0.5,
        "treeserve_sample_duration_seconds_sum": 2.0,
    }
    assert {name: seen[name] for name in expected} == expected


async def test_a_request_of_many_samples_is_one_request_and_many_samples():
    metrics = Metrics()

    async def events():
        for index in range(8):
            yield Delta((), index, "a", (1, 2), None, FinishReason.STOP, timings=TIMINGS)
        yield Finished((), Usage(3, 0, 0, 3, 16))

    async for _ in measured(events(), metrics):
        pass
    seen = values(metrics)
    assert seen["treeserve_requests_finished_total (none)"] == 1
    assert seen["treeserve_samples_finished_total stop (none)"] == 8
    assert seen["treeserve_request_samples_sum"] == 8
    assert seen["treeserve_time_to_first_token_seconds_count (none)"] == 1
    assert seen["treeserve_sample_time_to_first_token_seconds_count"] == 8
