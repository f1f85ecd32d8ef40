"""Memory that runs out: who gives way, and that nobody notices but by the clock."""

import numpy as np
import pytest
from kv_on_paper import drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.scheduler.scheduler import Scheduler

PROMPT = np.random.default_rng(3).integers(0, 4, 200).tolist()


def make(**options):
    config = SchedulerConfig(**{"token_budget": 64, "page_size": 4, "policy": "fcfs", **options})
    return Scheduler(config), make_device(config)


def run_all(scheduler, device, requests):
    for each in requests:
        scheduler.add(each)
    steps, updates = run_until_idle(scheduler, device)
    outputs = drawn(updates)
    for each in requests:
        for index in range(each.num_samples):
            assert outputs[each.request_id, index] == run_alone(each, index, 4)
    return steps, updates


def long_requests(count, n=2):
    return [request(f"r{i}", PROMPT[i : i + 9], n=n, max_tokens=30) for i in range(count)]


def test_preempted_samples_draw_the_very_tokens_of_undisturbed_ones():
    scheduler, device = make(num_pages=30, reserve=0.0)
    run_all(scheduler, device, long_requests(10))
    assert scheduler.counts().preempted_samples > 0
    assert scheduler.counts().tally.recomputed_tokens > 0


def test_with_the_whole_need_in_reserve_nobody_is_preempted():
    scheduler, device = make(num_pages=30, reserve=1.0)
    run_all(scheduler, device, long_requests(10))
    assert scheduler.counts().preempted_samples == 0


def test_a_smaller_reserve_runs_more_samples_at_once():
    widest = []
    for reserve in (1.0, 0.0):
        scheduler, device = make(num_pages=40, reserve=reserve)
        requests = [request(f"r{i}", PROMPT[:8], max_tokens=60, stop=[2]) for i in range(12)]
        steps, _ = run_all(scheduler, device, requests)
        widest.append(max(len(step.draws) for step in steps))
    assert widest[0] < widest[1]


def test_the_newest_gives_way_and_the_oldest_is_never_disturbed():
    scheduler, device = make(num_pages=16, reserve=0.0)
    _, updates = run_all(scheduler, device, long_requests(3, n=1))
    assert scheduler.counts().preempted_samples > 0
    last_draw = {u.request_id: i for i, u in enumerate(updates)}
    assert last_draw["r0"] < last_draw["r1"] < last_draw["r2"]
    assert [u.request_id for u in updates if u.finish_reason] == ["r0", "r1", "r2"]


def test_a_lower_priority_gives_way_to_an_older_higher_one():
    scheduler, device = make(num_pages=16, reserve=0.0)
    requests = [
        request("low", PROMPT[:9], max_tokens=30, priority=0),
        request("high", PROMPT[9:18], max_tokens=30, priority=1),
    ]
    _, updates = run_all(scheduler, device, requests)
    assert scheduler.counts().preempted_samples > 0
    assert [u.request_id for u in updates if u.finish_reason] == ["high", "low"]


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_sample_that_fills_the_pool_alone_is_served_whatever_is_cached(page_size):
    scheduler, device = make(num_pages=64 // page_size, page_size=page_size, reserve=0.0)
    pieces = [request(f"p{end}", PROMPT[:end], max_tokens=1) for end in range(1, 9)]
    for piece in pieces:
        run_all(scheduler, device, [piece])
    whole = request("whole", PROMPT[:8], max_tokens=57 - page_size)
    run_all(scheduler, device, [whole])


def test_preempted_samples_can_be_aborted_and_leave_nothing():
    scheduler, device = make(num_pages=16, reserve=0.0)
    for each in long_requests(3, n=1):
        scheduler.add(each)
    while not scheduler.counts().preempted_samples:
        step = scheduler.schedule()
        scheduler.complete(step, device.run(step))
    for i in range(3):
        scheduler.abort(f"r{i}")
        scheduler.check()
    assert not scheduler.has_work()
    scheduler.clear_cache()
    assert scheduler.counts().used_pages == 0


def test_what_is_computed_twice_is_not_charged_to_the_prompt():
    scheduler, device = make(num_pages=16, reserve=0.0)
    for each in long_requests(3, n=1):
        scheduler.add(each)
    usage = {}
    while (step := scheduler.schedule()) is not None:
        for end in scheduler.complete(step, device.run(step)):
            usage[end.request_id] = scheduler.usage(end.request_id)
    assert sum(u.recomputed_tokens for u in usage.values()) > 0
    for each in usage.values():
        assert each.cached_tokens + each.shared_tokens + each.computed_tokens == 9
