"""Deadlines: whatever state a request is in, its time ends it once and frees what it held."""

import numpy as np
import pytest
from kv_on_paper import complete, drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.scheduler.request import ScheduledFork
from treeserve.scheduler.scheduler import Scheduler

PROMPT = np.random.default_rng(6).integers(0, 4, 200).tolist()


class Timed:
    """A scheduler whose clock moves only by hand."""

    def __init__(self, **options):
        config = SchedulerConfig(**{"num_pages": 60, "token_budget": 8, "page_size": 4, **options})
        self.now = 0.0
        self.scheduler = Scheduler(config, clock=lambda: self.now)
        self.device = make_device(config)
        self.updates = []

    def step(self):
        step = self.scheduler.schedule()
        self.scheduler.check()
        self.updates += complete(self.scheduler, step, self.device.run(step))
        self.scheduler.check()

    def let_pass(self):
        """The deadline of everybody who has one; who was ended by it."""
        self.now = 10.0
        step = self.scheduler.schedule()
        self.scheduler.check()
        if step is not None:
            self.updates += complete(self.scheduler, step, self.device.run(step))
        return self.scheduler.take_expired()

    def finish(self):
        self.updates += run_until_idle(self.scheduler, self.device)[1]
        self.scheduler.clear_cache()
        assert self.scheduler.counts().used_pages == 0


def late(request_id, prompt, **options):
    return request(request_id, prompt, deadline=5.0, **options)


def test_one_that_waits():
    timed = Timed(max_running=1)
    timed.scheduler.add(request("running", PROMPT[:4], max_tokens=9))
    timed.step()
    timed.scheduler.add(late("late", PROMPT[4:9]))
    timed.step()
    assert timed.scheduler.is_waiting("late")
    assert timed.let_pass() == ["late"]
    timed.finish()
    assert set(drawn(timed.updates)) == {("running", 0)}


def test_one_that_is_computing_tokens_for_others_hands_them_over():
    timed = Timed()
    timed.scheduler.add(late("late", PROMPT[:50]))
    other = request("other", PROMPT[:50])
    timed.scheduler.add(other)
    timed.step()
    assert timed.let_pass() == ["late"]
    timed.finish()
    assert drawn(timed.updates) == {("other", 0): run_alone(other, 0, 4)}
    assert timed.device.num_prompt_rows == 50, "what it had computed is used"


def test_one_whose_tokens_another_computes():
    timed = Timed()
    other = request("other", PROMPT[:50])
    timed.scheduler.add(other)
    timed.scheduler.add(late("late", PROMPT[:50]))
    timed.step()
    assert timed.let_pass() == ["late"]
    timed.finish()
    assert drawn(timed.updates) == {("other", 0): run_alone(other, 0, 4)}


def test_one_that_draws_keeps_the_samples_that_ended():
    timed = Timed()
    timed.scheduler.add(late("late", PROMPT[:4], n=2, max_tokens=30, stop=[0]))
    while not any(update.finish_reason for update in timed.updates):
        timed.step()
    assert timed.scheduler.has_work(), "only one of the two has stopped"
    assert timed.let_pass() == ["late"]
    timed.finish()
    assert [u.finish_reason for u in timed.updates if u.finish_reason] == ["stop"]


def test_one_that_was_preempted():
    timed = Timed(num_pages=16, reserve=0.0, policy="fcfs")
    first = request("first", PROMPT[:9], max_tokens=40)
    timed.scheduler.add(first)
    timed.scheduler.add(late("late", PROMPT[9:18], max_tokens=40))
    while not timed.scheduler.counts().preempted_samples:
        timed.step()
    assert timed.let_pass() == ["late"]
    timed.finish()
    assert drawn(timed.updates)["first", 0] == run_alone(first, 0, 4)


def test_a_parent_whose_branches_go_on_without_it():
    timed = Timed()
    parent = late("late", PROMPT[:9], max_tokens=40)
    timed.scheduler.add(parent)
    for _ in range(6):
        timed.step()
    tokens = drawn(timed.updates)["late", 0]
    timed.scheduler.fork(ScheduledFork("child", "late", 0, len(tokens), 2, 5))
    assert timed.let_pass() == ["late"]
    timed.finish()
    child = request("child", [*PROMPT[:9], *tokens], n=2, max_tokens=5)
    for index in range(2):
        assert drawn(timed.updates)["child", index] == run_alone(child, index, 4)


def test_one_that_comes_too_late_never_holds_memory():
    timed = Timed()
    timed.now = 7.0
    timed.scheduler.add(late("late", PROMPT[:9]))
    assert timed.scheduler.has_work()
    assert timed.let_pass() == ["late"]
    assert timed.scheduler.usage("late").computed_tokens == 0
    assert not timed.scheduler.has_work()
    assert timed.scheduler.counts().used_pages == 0


@pytest.mark.parametrize("how", ["abort", "finish", "fail"])
def test_one_that_ended_before_is_not_ended_again(how):
    timed = Timed()
    timed.scheduler.add(late("late", PROMPT[:4], max_tokens=2))
    if how == "abort":
        timed.scheduler.abort("late")
    elif how == "fail":
        assert timed.scheduler.fail(timed.scheduler.schedule()) == ["late"]
    else:
        timed.finish()
    timed.scheduler.add(request("late", PROMPT[:4], max_tokens=2))
    assert timed.let_pass() == []
    timed.finish()
