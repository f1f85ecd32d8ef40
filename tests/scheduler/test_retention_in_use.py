"""What stays cached: retained prefixes under pressure, and the logits for a second wave."""

import numpy as np
import pytest
from kv_on_paper import drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.tree.prefix import Prefix

PROMPTS = np.random.default_rng(12).integers(0, 4, (60, 40)).tolist()


class House:
    def __init__(self, **options):
        config = SchedulerConfig(
            **{"num_pages": 50, "page_size": 4, "token_budget": 64, "policy": "fcfs", **options}
        )
        self.now = 0.0
        self.scheduler = Scheduler(config, clock=lambda: self.now)
        self.device = make_device(config)

    def serve(self, number, **options):
        """How many rows of the prompt had to be computed."""
        before = self.device.num_prompt_rows
        self.scheduler.add(request("r", PROMPTS[number], **{"max_tokens": 1, **options}))
        run_until_idle(self.scheduler, self.device)
        return self.device.num_prompt_rows - before

    def press(self, numbers):
        for number in numbers:
            self.serve(number)


def prefix(number):
    return Prefix(np.array(PROMPTS[number], dtype=np.int32))


def test_a_retained_prefix_outlives_an_equal_one_until_its_time_is_over():
    house = House()
    for number in (0, 1):
        house.serve(number)
    house.scheduler.retain(prefix(0), 5.0, 100.0)
    house.press(range(10, 18))
    assert house.serve(0) == 0, "retained: all of it is there, its logits too"
    assert house.serve(1) > 30, "and of the other next to nothing"
    house.now = 101.0
    house.press(range(25, 60))
    assert house.scheduler.retained() == ()
    assert house.serve(0) > 30


def test_an_unknown_prefix_can_be_retained_before_it_comes():
    house = House()
    house.scheduler.retain(prefix(0), 5.0, 100.0)
    house.scheduler.check()
    assert house.scheduler.counts().retained_tokens == 0
    house.serve(0)
    assert house.scheduler.counts().retained_tokens == 40
    house.press(range(10, 18))
    assert house.serve(0) == 0


def test_without_a_budget_nothing_is_retained_and_nothing_breaks():
    house = House(retained_fraction=0.0)
    house.scheduler.retain(prefix(0), 5.0, 100.0)
    house.serve(0)
    assert house.scheduler.counts().retained_tokens == 0
    with pytest.raises(InvalidRequest, match="prefix"):
        house.scheduler.retain(prefix(0), 5.0, 100.0)
    house.scheduler.check()


@pytest.mark.parametrize("between", [0, 3])
def test_a_second_wave_of_samples_computes_no_prompt_token(between):
    house = House(num_pages=400)
    house.serve(0, n=4, max_tokens=6)
    house.press(range(10, 10 + between))
    assert house.serve(0, n=8, max_tokens=1) == 0


def test_a_second_wave_beside_the_first_computes_no_prompt_token():
    house = House(num_pages=400)
    scheduler, device = house.scheduler, house.device
    scheduler.add(request("first", PROMPTS[0], n=2, max_tokens=9))
    for _ in range(3):
        step = scheduler.schedule()
        scheduler.complete(step, device.run(step))
    rows = device.num_prompt_rows
    second = request("second", PROMPTS[0], n=4, max_tokens=3)
    scheduler.add(second)
    _, updates = run_until_idle(scheduler, device)
    assert device.num_prompt_rows == rows == 40
    for index in range(4):
        assert drawn(updates)["second", index] == run_alone(second, index, 4)


def test_clearing_the_cache_leaves_preempted_samples_to_go_on():
    house = House(num_pages=16, reserve=0.0)
    scheduler, device = house.scheduler, house.device
    requests = [request(f"r{i}", PROMPTS[i][:9], max_tokens=40) for i in range(3)]
    for each in requests:
        scheduler.add(each)
    updates = []
    while (step := scheduler.schedule()) is not None:
        tokens = device.run(step)
        updates += zip(step.draws.samples, tokens, strict=True)
        scheduler.complete(step, tokens)
        scheduler.clear_cache()
        scheduler.check()
    assert scheduler.counts().preempted_samples > 0
    for each in requests:
        got = tuple(token for key, token in updates if key.request_id == each.request_id)
        assert got == run_alone(each, 0, 4)
