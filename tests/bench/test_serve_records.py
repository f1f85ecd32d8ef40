"""What a service benchmark makes of calls that went well, were refused, failed or were wrong."""

from itertools import pairwise

import pytest

from treeserve.bench.serve.cpu_time import Taken
from treeserve.bench.serve.load import Load
from treeserve.bench.serve.records import Targets, make_stage
from treeserve.bench.serve.sockets import CallRecord, Meter, SampleRecord
from treeserve.bench.serve.workloads import WORKLOADS, read_workloads

TARGETS = Targets(ttft_ms=100, tpot_ms=10)


def call(due: float, first: float, per_token: float, end: float, **fields) -> CallRecord:
    sample = SampleRecord(due + first, due + first + 4 * per_token, num_tokens=5)
    return CallRecord(due=due, sent=due, end=due + end, samples={(0,): sample}, **fields)


def stage_of(records: list[CallRecord], **fields):
    load = Load(Meter(10.0, 20.0), records, Taken(10.0, 2.0, None))
    for name, value in fields.items():
        setattr(load, name, value)
    return make_stage("chat", "open", 1.0, load, TARGETS)


def test_a_call_is_good_if_all_its_samples_keep_both_targets():
    slow_start = call(11, 0.11, 0.001, 1)
    slow_tokens = call(11, 0.01, 0.011, 1)
    good = call(11, 0.01, 0.001, 1)
    half = call(11, 0.01, 0.001, 1)
    half.samples[(1,)] = next(iter(slow_start.samples.values()))
    stage = stage_of([slow_start, slow_tokens, good, half])
    assert (stage.good_calls, stage.goodput) == (4, 0.1)
    assert stage.goodput_share == 0.25


def test_refused_calls_lower_the_share_that_is_good_but_are_no_failure():
    refused = CallRecord(due=11, sent=11, end=11, status="RESOURCE_EXHAUSTED")
    stage = stage_of([refused, call(11, 0.01, 0.001, 1)])
    assert (stage.refused, stage.failed, stage.goodput_share) == (1, 0, 0.5)
    assert stage.flags == []
    assert not stage.is_bad


def test_failed_and_wrong_calls_are_flagged_with_the_first_reason():
    failed = CallRecord(due=11, sent=11, end=12, status="DEADLINE_EXCEEDED", details="too late")
    stage = stage_of([failed, call(11, 0.01, 0.001, 1, wrong="one token is missing")])
    assert (stage.failed, stage.wrong, stage.good_calls) == (1, 1, 0)
    assert stage.statuses == {"DEADLINE_EXCEEDED": 1}
    assert stage.flags == ["failed: 2 of 2, first: DEADLINE_EXCEEDED: too late"]
    assert stage.is_bad
    assert (stage.ttft_ms, stage.tpot_ms, stage.end_to_end_ms) == (None, None, None)


def test_times_count_from_when_a_call_was_due_not_from_when_it_was_sent():
    late = call(11, 0.5, 0.001, 1)
    late.sent = 11.4
    stage = stage_of([late])
    assert stage.ttft_ms.p50 == pytest.approx(500)
    assert stage.client.late_ms_p99 == pytest.approx(400)


def test_percentiles_and_shares_are_of_the_window():
    records = [
        call(11, 0.001 * i, 0.001, 1, prompt_tokens=10, computed_tokens=4) for i in range(101)
    ]
    load_meter = Meter(10.0, 20.0)
    for now in (9.9, 10.0, 19.9, 20.0):
        load_meter.see(now, 50)
    stage = stage_of(records, meter=load_meter)
    ttft = stage.ttft_ms
    assert [round(value) for value in (ttft.p50, ttft.p90, ttft.p99)] == [50, 90, 99]
    assert stage.drawn_tokens_per_second == 10
    assert stage.client.messages_per_second == 0.2
    assert stage.prompt_tokens_per_second == 101
    assert stage.computed_share == pytest.approx(0.4)
    assert stage.client.cpu_share == 0.2
    assert stage.server_cpu_share is None


def test_a_busy_client_is_flagged_for_it_may_be_what_was_measured():
    stage = stage_of([], taken=Taken(10.0, 9.0, None))
    assert stage.flags == ["client: it took 90% of a core"]


def test_nothing_at_all_is_no_division_by_zero():
    stage = stage_of([], meter=Meter(10.0, 10.0), taken=None, gone="nobody is there")
    assert (stage.calls, stage.goodput, stage.client.cpu_share) == (0, 0.0, None)
    assert stage.flags == ["gone: nobody is there"]


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_calls_are_the_same_for_the_same_seed_and_new_for_another_index(name):
    [workload] = read_workloads(name)
    assert workload.call(3, 5) == workload.call(3, 5)
    texts = [_whole(workload.call(3, index)) for index in range(20)]
    assert len(set(texts)) == 20
    assert _whole(workload.call(4, 5)) != _whole(workload.call(3, 5))


def test_workloads_share_what_they_say_and_the_control_shares_nothing():
    def shared(name: str) -> int:
        [workload] = read_workloads(name)
        texts = [_whole(workload.call(0, index)) for index in range(30)]
        return max(_common(*pair) for pair in pairwise(sorted(texts)))

    assert min(shared(name) for name in ("chat", "contest", "documents")) > 1000
    assert shared("unshared") < 8


def _whole(made) -> str:
    return made.tree.text + "".join(branch.text for branch in made.tree.branches)


def _common(left: str, right: str) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
