"""Branches where memory is promised to others, ids are used again, or steps go wrong."""

import dataclasses

import numpy as np
import pytest
from kv_on_paper import complete, drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.scheduler.request import ScheduledFork
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.tree.prefix import Prefix

PROMPT = np.random.default_rng(8).integers(0, 4, 40).tolist()


def make(**options):
    config = SchedulerConfig(**{"num_pages": 100, "token_budget": 64, "page_size": 4, **options})
    return Scheduler(config), make_device(config)


def run_steps(scheduler, device, num_steps):
    updates = []
    for _ in range(num_steps):
        step = scheduler.schedule()
        updates += complete(scheduler, step, device.run(step))
        scheduler.check()
    return updates


@pytest.mark.parametrize("num_steps", range(1, 8))
def test_a_branch_costs_its_parent_none_of_the_pages_that_it_was_promised(num_steps):
    scheduler, device = make(num_pages=6, reserve=1.0)
    parents = [request(name, PROMPT[i : i + 4], max_tokens=8) for i, name in enumerate("ab")]
    for each in parents:
        scheduler.add(each)
    updates = run_steps(scheduler, device, num_steps)
    assert len(updates) == 2 * num_steps
    for name in "ab":
        scheduler.fork(ScheduledFork(f"child of {name}", name, 0, num_steps, 1, 2))
        scheduler.check()
    updates += run_until_idle(scheduler, device)[1]
    assert scheduler.counts().preempted_samples == 0
    for each in parents:
        assert drawn(updates)[each.request_id, 0] == run_alone(each, 0, 4)


def test_a_branch_takes_no_cached_pages_that_are_promised_to_others():
    scheduler, device = make(num_pages=6, reserve=1.0)
    scheduler.add(request("a", PROMPT[:4], max_tokens=8))
    scheduler.add(request("twin", PROMPT[:4], max_tokens=2))
    run_steps(scheduler, device, 2)
    assert scheduler.counts().cached_pages == 1, "what the twin drew, and so did the other"
    scheduler.add(request("other", PROMPT[8:12], max_tokens=9))
    run_steps(scheduler, device, 1)
    assert scheduler.counts().running_samples == 2
    scheduler.fork(ScheduledFork("child", "a", 0, 1, 1, 2))
    scheduler.check()
    _, updates = run_until_idle(scheduler, device)
    assert scheduler.counts().preempted_samples == 0
    tokens = run_alone(request("a", PROMPT[:4], max_tokens=1), 0, 4)
    child = request("child", [*PROMPT[:4], *tokens], max_tokens=2)
    assert drawn(updates)["child", 0] == run_alone(child, 0, 4)


def test_a_request_with_the_id_of_an_ended_one_is_never_taken_for_it():
    scheduler, device = make()
    scheduler.add(request("a", PROMPT[:5], n=3, max_tokens=4, namespace="secret"))
    run_until_idle(scheduler, device)
    scheduler.add(request("a", PROMPT[5:9], n=1, max_tokens=4))
    with pytest.raises(InvalidRequest, match="neither alive"):
        scheduler.fork(ScheduledFork("child", "a", 2, 1, 1, 2))
    scheduler.abort("a")
    with pytest.raises(InvalidRequest, match="neither alive"):
        scheduler.fork(ScheduledFork("child", "a", 0, 1, 1, 2))
    assert not scheduler.has_work()


def test_an_ended_request_can_give_its_id_to_its_own_branch():
    scheduler, device = make()
    parent = request("a", PROMPT[:5], max_tokens=4)
    scheduler.add(parent)
    run_until_idle(scheduler, device)
    tokens = run_alone(parent, 0, 4)
    scheduler.fork(ScheduledFork("a", "a", 0, 3, 1, 5))
    _, updates = run_until_idle(scheduler, device)
    branch = request("a", [*PROMPT[:5], *tokens[:3]], max_tokens=5)
    assert drawn(updates)["a", 0] == run_alone(branch, 0, 4)


def test_the_parent_keeps_what_it_computed_while_another_computes_the_same_tokens():
    scheduler, device = make(token_budget=2)
    parent = request("parent", PROMPT[:4], max_tokens=20)
    tokens = run_alone(parent, 0, 4)
    scheduler.add(parent)
    updates = run_steps(scheduler, device, 5)
    scheduler.add(request("same", [*PROMPT[:4], *tokens[:7]], max_tokens=1))
    updates += run_steps(scheduler, device, 1)
    # Cuts off the last token, so that a pending segment lies above another.
    cut = Prefix(np.array([*PROMPT[:4], *tokens[:6]], dtype=np.int32))
    scheduler.retain(cut, 1.0, 100.0)
    while len(updates) < 7:
        updates += run_steps(scheduler, device, 1)
    scheduler.fork(ScheduledFork("child", "parent", 0, 7, 1, 1))
    scheduler.check()
    step = scheduler.schedule()
    assert ("parent", 0) in step.draws.samples, "it draws on, whoever branches"
    updates += complete(scheduler, step, device.run(step))
    updates += run_until_idle(scheduler, device)[1]
    assert drawn(updates)["parent", 0] == tokens


def test_a_result_of_the_wrong_length_or_step_leaves_the_step_in_flight():
    scheduler, device = make()
    scheduler.add(request("a", PROMPT, n=2, max_tokens=2))
    step = scheduler.schedule()
    with pytest.raises(ValueError, match="2 draws, and 1 tokens"):
        scheduler.complete(step, [1])
    for misuse in (lambda s: scheduler.complete(s, [1, 1]), scheduler.fail):
        with pytest.raises(ValueError, match="not in flight"):
            misuse(dataclasses.replace(step))
    assert len(complete(scheduler, step, device.run(step))) == 2
    scheduler.check()


def test_a_deadline_that_is_no_number_is_refused():
    scheduler, _ = make()
    with pytest.raises(InvalidRequest, match="deadline"):
        scheduler.add(request("a", PROMPT, deadline=float("nan")))
    assert not scheduler.has_work()


def test_tails_that_have_all_their_pages_keep_nobody_out():
    scheduler, device = make(num_pages=19, reserve=0.25, max_running=64)
    scheduler.add(request("first", PROMPT[:4], n=9, max_tokens=5))
    run_steps(scheduler, device, 2)
    scheduler.add(request("second", PROMPT[:4], n=9, max_tokens=5))
    step = scheduler.schedule()
    assert len(step.draws) == 18
    complete(scheduler, step, device.run(step))
    run_until_idle(scheduler, device)
    assert scheduler.counts().preempted_samples == 0
