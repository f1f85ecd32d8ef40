"""Nobody waits for ever: whatever an adversary sends, so many steps are enough."""

import numpy as np
import pytest
from kv_on_paper import complete, make_device, request

from treeserve.config import SchedulerConfig
from treeserve.scheduler.scheduler import Scheduler

TRUNK = np.random.default_rng(9).integers(0, 4, 40).tolist()


def steps_until_drawn(policy, make_rival, *, victim, step_seconds=0.05, **options):
    """How long the victim waits for its first token while two rivals come in every step."""
    config = SchedulerConfig(
        **{"num_pages": 64, "page_size": 4, "token_budget": 32, "max_running": 4, **options},
        policy=policy,
    )
    now = 0.0
    scheduler, device = Scheduler(config, clock=lambda: now), make_device(config)
    for i in range(8):
        scheduler.add(make_rival(f"early {i}"))
    for number in range(1500):
        if number == 3:
            scheduler.add(victim)
        for i in range(2):
            scheduler.add(make_rival(f"rival {number} {i}"))
        step = scheduler.schedule()
        now += step_seconds
        updates = complete(scheduler, step, device.run(step))
        if any(update.request_id == victim.request_id for update in updates):
            return number - 3
    return None


def cheap_sibling(request_id):
    return request(request_id, TRUNK, max_tokens=4, tenant="rival")


@pytest.mark.parametrize("policy", ["tree", "fcfs"])
def test_an_endless_stream_of_cheap_siblings(policy):
    victim = request("victim", [*range(4), *TRUNK], max_tokens=4, tenant="rival")
    num_steps = steps_until_drawn(policy, cheap_sibling, victim=victim)
    assert num_steps is not None
    assert num_steps < 800


@pytest.mark.parametrize("policy", ["tree", "fcfs"])
def test_an_endless_stream_of_higher_priority(policy):
    def important(request_id):
        return request(request_id, TRUNK, max_tokens=4, priority=100, tenant="rival")

    victim = request("victim", TRUNK[::-1], max_tokens=4, tenant="rival")
    num_steps = steps_until_drawn(policy, important, victim=victim, step_seconds=1.0)
    assert num_steps is not None, "priority is worth some waiting, and no more"
    assert num_steps < 400


@pytest.mark.parametrize("policy", ["tree", "fcfs", "priority", "longest-prefix"])
def test_another_tenants_flood(policy):
    victim = request("victim", TRUNK[::-1], max_tokens=4, namespace="victim", tenant="victim")
    num_steps = steps_until_drawn(policy, cheap_sibling, victim=victim)
    assert num_steps is not None
    assert num_steps < 20


def test_small_requests_do_not_keep_out_one_that_needs_the_whole_pool():
    victim = request("victim", TRUNK[::-1], max_tokens=208, tenant="rival")
    num_steps = steps_until_drawn("tree", cheap_sibling, victim=victim, reserve=1.0)
    assert num_steps is not None
    assert num_steps < 800


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("token_budget", [1, 3, 64])
def test_samples_that_push_each_other_out_of_memory_all_end(page_size, token_budget):
    config = SchedulerConfig(
        num_pages=48 // page_size,
        page_size=page_size,
        token_budget=token_budget,
        max_running=64,
        reserve=0.0,
        kept_logits=1,
    )
    scheduler, device = Scheduler(config), make_device(config)
    for i in range(4):
        scheduler.add(request(f"r{i}", TRUNK[i : i + 6], n=3, max_tokens=30))
    num_steps = num_drawn = 0
    while (step := scheduler.schedule()) is not None:
        num_drawn += len(complete(scheduler, step, device.run(step)))
        num_steps += 1
        assert num_steps < 4 * 3 * 30 * 40, "no sample may lose its turn again and again"
    assert num_drawn == 4 * 3 * 30
    assert not scheduler.has_work()
