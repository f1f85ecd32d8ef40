"""Virtual time is what a person with a pencil gets, and every trace runs to its end."""

from functools import cache
from typing import get_args

import pytest

from treeserve.config import PolicyName, SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.simulation.device import preset
from treeserve.simulation.simulate import simulate
from treeserve.simulation.trace import TraceRequest, read_trace
from treeserve.simulation.workloads import TRACES_FOLDER, WORKLOADS

CONFIG = SchedulerConfig(num_pages=64, page_size=4, policy="fcfs")


def request(name, arrival, *, tokens=3, block=1, outputs=(2,), asked=None, **fields):
    return TraceRequest(
        request_id=name,
        arrival_seconds=arrival,
        input_length=tokens,
        block_ids=(block,),
        output_lengths=outputs,
        max_tokens=asked or max(outputs),
        **fields,
    )


@pytest.fixture
def one_second(make_device):
    """Every step with rows takes a second."""
    return make_device(weights_bytes=1.0)


def test_one_request_by_hand(one_second):
    """Arrives at 0.5; the prompt's step ends at 1.5, two more tokens follow."""
    result = simulate([request("a", 0.5, outputs=(3,))], one_second, CONFIG)
    assert result.time_to_first_token.mean == 1.0
    assert result.time_per_output_token.mean == 1.0
    assert result.end_to_end.mean == 3.0
    assert result.queue_wait.mean == 0.0
    assert result.makespan_seconds == 3.5
    assert result.num_steps == 3
    assert result.output_tokens == 3
    assert result.output_tokens_per_second == 3 / 3.5
    assert result.mean_running_samples == 3 / 3.5


def test_who_comes_in_the_middle_of_a_step_waits_for_its_end(one_second):
    """b comes at 0.25 and starts at 1, while a decodes."""
    trace = [request("a", 0.0), request("b", 0.25, block=2)]
    result = simulate(trace, one_second, CONFIG)
    assert result.queue_wait.mean == (0 + 0.75) / 2
    assert result.time_to_first_token.mean == (1 + 1.75) / 2
    assert result.makespan_seconds == 3.0
    assert result.num_steps == 3


def test_the_device_idles_until_somebody_comes(one_second):
    result = simulate([request("a", 0.0), request("b", 100.0, block=2)], one_second, CONFIG)
    assert result.makespan_seconds == 102.0
    assert result.end_to_end.mean == 2.0
    assert result.num_steps == 4


def test_rows_and_reads_take_time(make_device):
    """Three prompt rows, then one row that reads four tokens."""
    device = make_device(flops_per_row=2.0, bytes_per_kv_token=10.0)
    result = simulate([request("a", 0.0)], device, CONFIG)
    assert result.time_to_first_token.mean == 3 * 2 + 3 * 10
    assert result.end_to_end.mean == 3 * 2 + 3 * 10 + 2 + 4 * 10
    assert result.computed_rows == 4
    assert result.kv_tokens_read == result.kv_tokens_read_flat == 7


def test_equal_prompts_are_cached_or_shared_and_never_sent_twice(one_second):
    trace = [request(name, arrival) for name, arrival in (("a", 0), ("b", 0), ("c", 9))]
    result = simulate(trace, one_second, CONFIG)
    tokens = (result.computed_tokens, result.shared_tokens, result.cached_tokens)
    assert sum(tokens) == result.prompt_tokens == 9
    assert result.shared_tokens == 3
    assert result.computed_tokens in (3, 4), "only the last token may be computed for its logits"


def test_a_child_continues_what_its_parent_drew(one_second):
    """The parent ends at 2; the child comes 5 later, with its parent's five tokens cached but one.

    The parent's last token was drawn and never computed.
    """
    trace = [
        request("a", 0.0, tokens=3, outputs=(1, 3)),
        request("b", 5.0, tokens=4, block=2, parent="a", parent_sample=1),
    ]
    result = simulate(trace, one_second, CONFIG)
    assert result.makespan_seconds == 3 + 5 + 2
    assert result.prompt_tokens == 3 + (3 + 3 + 4)
    assert result.cached_tokens == 5
    assert result.computed_tokens == 3 + 5


def test_samples_of_a_request_diverge(one_second):
    """Each of the four children of as many samples finds its own parent's text, and no other's."""
    trace = [request("a", 0.0, outputs=(4,) * 4)]
    trace += [
        request(f"b{index}", 1.0, tokens=1, block=2 + index, parent="a", parent_sample=index)
        for index in range(4)
    ]
    result = simulate(trace, one_second, CONFIG)
    assert result.cached_tokens == 4 * (3 + 3)
    assert result.num_finished == 5


def test_a_sample_stops_before_what_it_asked_for(one_second):
    asks_more = [request("a", 0.0, outputs=(2, 5), asked=50)]
    result = simulate(asks_more, one_second, CONFIG)
    assert result.output_tokens == 7
    assert result.makespan_seconds == 5.0


def test_asking_for_more_holds_others_back_where_room_is_reserved(one_second):
    """Of 64 pages, one request that may draw 200 tokens reserves 50."""
    trace = [request("a", 0.0, asked=200), request("b", 0.0, block=2, asked=200)]
    config = SchedulerConfig(num_pages=64, page_size=4, policy="fcfs", reserve=1.0)
    waits = [
        simulate(trace, one_second, config, max_tokens=asked).queue_wait.mean
        for asked in (None, 200, 0)
    ]
    assert waits == [1.0, 1.0, 0.0]


def test_samples_that_give_up_their_memory_come_back(one_second):
    """Four samples of 40 tokens do not fit into 20 pages of 4 at once."""
    trace = [request(f"{i}", 0.0, block=i + 1, outputs=(40,)) for i in range(4)]
    config = SchedulerConfig(num_pages=20, page_size=4, policy="fcfs", reserve=0.0)
    result = simulate(trace, one_second, config)
    assert result.num_finished == 4
    assert result.output_tokens == 160
    assert result.preemptions > 0
    assert result.peak_live_pages <= 20


def test_a_deadline_ends_a_request_and_its_children_are_never_sent(one_second):
    trace = [
        request("a", 0.0, outputs=(9,), deadline_seconds=3.5),
        request("b", 1.0, parent="a"),
        request("c", 0.0, block=2, outputs=(9,)),
    ]
    result = simulate(trace, one_second, CONFIG)
    assert (result.num_finished, result.num_expired, result.num_unsent) == (1, 1, 1)
    assert result.tenants[""].num_finished == 1


def test_tenants_are_told_apart_and_share_nothing(one_second):
    trace = [
        request("a", 0.0, tenant="x"),
        request("b", 0.0, tenant="y", outputs=(5,)),
    ]
    result = simulate(trace, one_second, CONFIG)
    assert result.computed_tokens == 6
    assert {name: t.output_tokens for name, t in result.tenants.items()} == {"x": 2, "y": 5}
    assert result.tenants["y"].end_to_end.mean == 5.0


def test_a_request_that_can_never_run_is_named(one_second):
    with pytest.raises(InvalidRequest, match="request a: prompt: has 300 tokens"):
        simulate([request("a", 0.0, tokens=300)], one_second, CONFIG)


def test_progress_counts_what_ended(one_second):
    told = []
    trace = [request("a", 0.0), request("b", 3.0, block=2)]
    simulate(trace, one_second, CONFIG, progress=lambda ended, now: told.append((ended, now)))
    assert told[-1] == (2, 5.0)


@pytest.mark.parametrize("policy", get_args(PolicyName))
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_committed_trace_runs_to_its_end(name, policy):
    trace = read_trace(TRACES_FOLDER / f"{name}.jsonl")[: 2 if name == "contest" else 8]
    config = SchedulerConfig(num_pages=2400, max_running=64, token_budget=1024, policy=policy)
    result = simulate(trace, preset("h100-8b"), config)
    assert result.num_finished == len(trace)
    assert result.output_tokens == sum(sum(request.output_lengths) for request in trace)
    origins = result.computed_tokens + result.cached_tokens + result.shared_tokens
    assert origins == result.prompt_tokens
    assert result.kv_tokens_read <= result.kv_tokens_read_flat


@pytest.mark.parametrize("policy", get_args(PolicyName))
def test_the_same_trace_gives_the_same_result(policy):
    """On a pool so small that there is waiting, eviction and preemption."""
    trace = read_trace(TRACES_FOLDER / "overload.jsonl")[:30]
    config = SchedulerConfig(num_pages=1400, max_running=64, policy=policy, reserve=0.1)
    first, second = (simulate(trace, preset("h100-8b"), config) for _ in range(2))
    assert first == second
    assert first.evicted_tokens > 0


@cache
def result_by_default(name, policy):
    """Of a whole trace that comes with treeserve, on the pool that the device has room for."""
    device = preset("h100-8b")
    config = SchedulerConfig(num_pages=device.num_pages(16), token_budget=2048, policy=policy)
    return simulate(read_trace(TRACES_FOLDER / f"{name}.jsonl"), device, config)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_sharing_first_serves_sooner_and_lets_nobody_wait_much_longer(name):
    """Virtual time is exact, so this holds on every machine or on none."""
    tree, fcfs = (result_by_default(name, policy) for policy in ("tree", "fcfs"))
    assert fcfs.queue_wait.p99 > 0.5, "or else there is nothing to choose from"
    assert tree.time_to_first_token.mean <= fcfs.time_to_first_token.mean
    assert tree.time_to_first_token.p99 <= 1.2 * fcfs.time_to_first_token.p99


@pytest.mark.slow
def test_the_traces_preempt_on_the_whole_pool_too():
    """Or else nothing that is compared here says what preemption costs."""
    result = result_by_default("reasoning", "tree")
    assert result.preemptions > 10
    assert result.num_finished == result.num_requests
