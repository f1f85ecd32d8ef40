"""Branches of samples: what is shared, what is computed, and that the parent does not notice."""

import numpy as np
import pytest
from kv_on_paper import complete, drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.scheduler.request import ScheduledFork
from treeserve.scheduler.scheduler import Scheduler

PROMPT = np.random.default_rng(4).integers(0, 4, 50).tolist()


def make(**options):
    config = SchedulerConfig(**{"num_pages": 400, "token_budget": 128, "page_size": 4, **options})
    return Scheduler(config), make_device(config)


def run_steps(scheduler, device, num_steps):
    updates = []
    for _ in range(num_steps):
        step = scheduler.schedule()
        scheduler.check()
        updates += complete(scheduler, step, device.run(step))
        scheduler.check()
    return updates


def fork(parent_id, num_tokens, *, n=3, max_tokens=6, request_id="child", index=0):
    return ScheduledFork(request_id, parent_id, index, num_tokens, n, max_tokens)


def assert_as_alone(outputs, parent, num_tokens, n=3, max_tokens=6):
    own = run_alone(parent, 0, 4)
    assert outputs[parent.request_id, 0] == own
    child = request("child", [*PROMPT, *own[:num_tokens]], n=n, max_tokens=max_tokens)
    for index in range(n):
        assert outputs["child", index] == run_alone(child, index, 4)


@pytest.mark.parametrize("num_tokens", range(12))
def test_a_running_sample_branches_at_any_of_its_tokens(num_tokens):
    scheduler, device = make()
    parent = request("parent", PROMPT, max_tokens=20)
    scheduler.add(parent)
    updates = run_steps(scheduler, device, 11)
    assert len(updates) == 11
    rows_before = device.num_rows
    scheduler.fork(fork("parent", num_tokens))
    scheduler.check()
    step = scheduler.schedule()
    assert len(step.draws) == 1 + 3, "the branches draw in the very next step"
    updates += complete(scheduler, step, device.run(step))
    num_more = device.num_rows - rows_before - 1
    assert num_more <= 1, "one row at most, for the logits of the branching point"
    updates += run_until_idle(scheduler, device)[1]
    assert_as_alone(drawn(updates), parent, num_tokens)


def test_branches_at_the_end_draw_from_the_row_that_the_parent_has_anyway():
    scheduler, device = make()
    scheduler.add(request("parent", PROMPT, max_tokens=20))
    run_steps(scheduler, device, 10)
    scheduler.fork(fork("parent", 10))
    step = scheduler.schedule()
    assert (step.num_rows, len(step.draws)) == (1, 4)
    scheduler.complete(step, device.run(step))


def test_parent_and_branches_read_what_they_share_once():
    scheduler, device = make(sharing="always")
    scheduler.add(request("parent", PROMPT, max_tokens=40))
    run_steps(scheduler, device, 30)
    scheduler.fork(fork("parent", 29, max_tokens=9))
    run_steps(scheduler, device, 3)
    step = scheduler.schedule()
    counts = step.plan.counts
    assert counts.tokens_read <= len(PROMPT) + 29 + 4 * 6
    assert counts.tokens_read_flat >= 4 * (len(PROMPT) + 29)


@pytest.mark.parametrize("num_tokens", [0, 5, 12])
def test_an_ended_sample_branches_and_its_cached_tokens_are_not_computed_again(num_tokens):
    scheduler, device = make()
    parent = request("parent", PROMPT, max_tokens=12)
    scheduler.add(parent)
    _, updates = run_until_idle(scheduler, device)
    rows_before = device.num_rows
    scheduler.fork(fork("parent", num_tokens))
    step = scheduler.schedule()
    updates += complete(scheduler, step, device.run(step))
    assert device.num_rows - rows_before <= 1, "at most the last token, which nobody computed"
    updates += run_until_idle(scheduler, device)[1]
    assert_as_alone(drawn(updates), parent, num_tokens)


def test_branches_branch_again():
    scheduler, device = make()
    scheduler.add(request("parent", PROMPT, max_tokens=30))
    updates = run_steps(scheduler, device, 6)
    scheduler.fork(fork("parent", 6, n=2, max_tokens=20, request_id="a"))
    updates += run_steps(scheduler, device, 5)
    scheduler.fork(fork("a", 3, n=2, max_tokens=4, request_id="b", index=1))
    updates += run_until_idle(scheduler, device)[1]
    outputs = drawn(updates)
    trunk = [*PROMPT, *outputs["parent", 0][:6]]
    middle = request("a", trunk, n=2, max_tokens=20)
    assert outputs["a", 1] == run_alone(middle, 1, 4)
    leaf = request("b", [*trunk, *outputs["a", 1][:3]], n=2, max_tokens=4)
    assert outputs["b", 1] == run_alone(leaf, 1, 4)


def test_two_samples_that_drew_the_same_branch_from_one_copy():
    scheduler, device = make()
    scheduler.add(request("parent", PROMPT, n=4, max_tokens=20))
    updates = run_steps(scheduler, device, 8)
    outputs = drawn(updates)
    assert outputs["parent", 0] == outputs["parent", 3], "every third sample draws alike here"
    scheduler.fork(fork("parent", 7, n=1, request_id="a", index=0))
    scheduler.fork(fork("parent", 7, n=1, request_id="b", index=3))
    scheduler.check()
    used = scheduler.counts().used_pages
    run_steps(scheduler, device, 1)
    assert scheduler.counts().used_pages <= used + 4
    run_until_idle(scheduler, device)


def test_a_fork_needs_a_parent_and_its_tokens():
    scheduler, device = make()
    scheduler.add(request("parent", PROMPT, max_tokens=20))
    run_steps(scheduler, device, 3)
    for bad, field in [
        (fork("nobody", 0), "parent"),
        (fork("parent", 0, index=7), "parent"),
        (fork("parent", 4), "num_tokens"),
        (fork("parent", -1), "num_tokens"),
        (fork("parent", 1, n=0), "n"),
        (fork("parent", 1, max_tokens=100_000), "max_tokens"),
    ]:
        with pytest.raises(InvalidRequest) as error:
            scheduler.fork(bad)
        assert error.value.field == field
    with pytest.raises(ValueError, match="in use"):
        scheduler.fork(fork("parent", 1, request_id="parent"))
    scheduler.check()
    run_until_idle(scheduler, device)


def test_samples_that_ended_long_ago_are_forgotten():
    scheduler, device = make(num_pages=40)
    for i in range(8):
        scheduler.add(request(f"r{i}", PROMPT, max_tokens=3))
        run_until_idle(scheduler, device)
    with pytest.raises(InvalidRequest, match="ended last"):
        scheduler.fork(fork("r0", 1))
    scheduler.fork(fork("r7", 1))
    run_until_idle(scheduler, device)
