"""Prompts that are scored: every row once, no KV twice, nothing drawn before the last of them."""

import numpy as np
import pytest
from kv_on_paper import assert_scored, complete, make_device, request, run_until_idle
from overlapped import Overlapped

from treeserve.config import SchedulerConfig
from treeserve.scheduler.request import ScheduledFork
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import NO_SLOT

PROMPT = np.random.default_rng(3).integers(0, 4, 50).tolist()


class House:
    def __init__(self, *, token_budget: int = 200, num_pages: int = 80, **options) -> None:
        self.config = SchedulerConfig(
            num_pages=num_pages, page_size=4, token_budget=token_budget, max_running=16, **options
        )
        self.scheduler = Scheduler(self.config)
        self.device = make_device(self.config)

    def add(self, name: str, prompt: list[int], **options):
        each = request(name, prompt, **{"prompt_logprobs": 0, **options})
        if each.prompt_logprobs is not None:
            self.device.asked[name] = len(prompt)
        self.scheduler.add(each)
        return each

    def run(self, *requests):
        steps, updates = run_until_idle(self.scheduler, self.device)
        for each in requests:
            assert_scored(self.device, each)
        return steps, updates


@pytest.mark.parametrize("token_budget", [16, 17, 200])
def test_a_fresh_prompt_is_scored_by_the_rows_that_compute_it(token_budget):
    house = House(token_budget=token_budget)
    house.run(house.add("a", PROMPT, n=3))
    assert house.device.num_prompt_rows == 50
    assert house.device.num_scored == 49


@pytest.mark.parametrize("token_budget", [16, 17, 200])
def test_a_cached_prompt_is_computed_again_and_nothing_is_written(token_budget):
    house = House(token_budget=token_budget)
    house.add("first", PROMPT, prompt_logprobs=None)
    house.run()
    steps, _ = house.run(house.add("a", PROMPT, max_tokens=1))
    assert all((step.write_slots == NO_SLOT).all() for step in steps)
    assert house.device.num_scored == 49


def test_equal_prompts_that_come_together_are_scored_by_the_same_rows():
    house = House()
    house.run(*[house.add(f"r{i}", PROMPT[: 40 + i]) for i in range(5)])
    assert house.device.num_prompt_rows == 44
    assert house.device.num_scored == 43


def test_others_do_not_wait_for_a_prompt_to_be_scored():
    house = House(token_budget=16)
    house.add("cached", PROMPT, prompt_logprobs=None, max_tokens=1)
    house.run()
    scored = house.add("scored", PROMPT, max_tokens=1)
    house.add("plain", PROMPT, prompt_logprobs=None, max_tokens=1)
    _, updates = house.run(scored)
    assert [update.request_id for update in updates] == ["plain", "scored"]


def test_a_prompt_of_one_token_has_nothing_to_score():
    house = House()
    _, updates = house.run(house.add("a", [3]))
    assert len(updates) == 4
    assert house.device.num_scored == 0


def test_a_fork_can_be_scored_over_its_whole_path():
    house = House()
    house.add("parent", PROMPT[:20], prompt_logprobs=None, max_tokens=9)
    _, updates = house.run()
    fork = ScheduledFork("child", "parent", 0, 5, 2, 3, prompt_logprobs=0)
    house.scheduler.fork(fork)
    house.run()
    drawn = [update.token_id for update in updates][:5]
    assert house.device.scored["child"][24] == (*PROMPT[:20], *drawn)


def test_scored_rows_of_a_step_that_failed_end_their_request_alone():
    house = House(token_budget=16)
    overlapped = Overlapped(house.scheduler, house.device, house.scheduler.check)
    house.add("doomed", PROMPT)
    overlapped.step()
    assert overlapped.fail_to_read() == ["doomed"]
    again = house.add("doomed", PROMPT)
    overlapped.run_until_idle()
    assert_scored(house.device, again)


def test_an_aborted_prompt_leaves_no_rows_behind():
    house = House(token_budget=16)
    house.add("a", PROMPT)
    step = house.scheduler.schedule()
    complete(house.scheduler, step, house.device.run(step))
    house.scheduler.abort("a")
    house.scheduler.check()
    assert house.scheduler.schedule() is None


def test_usage_says_which_tokens_were_computed_though_they_were_cached():
    house = House()
    house.add("first", PROMPT[:30], prompt_logprobs=None)
    house.run()
    house.add("a", PROMPT, max_tokens=1)
    step = house.scheduler.schedule()
    house.scheduler.complete(step, house.device.run(step))
    usage = house.scheduler.usage("a")
    assert (usage.cached_tokens, usage.shared_tokens, usage.computed_tokens) == (0, 0, 50)
    assert usage.recomputed_tokens == 0


def test_tokens_that_another_request_computes_meanwhile_are_not_ones_own():
    house = House(token_budget=200)
    house.add("a", PROMPT[:30], max_tokens=1)
    house.add("b", PROMPT, max_tokens=1)
    step = house.scheduler.schedule()
    house.scheduler.complete(step, house.device.run(step))
    usage = house.scheduler.usage("b")
    assert (usage.shared_tokens, usage.computed_tokens) == (30, 20)
