"""The device's copy of the slots is the plan's, after every step, and only changes are sent."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from kv_on_paper import complete, make_device, request

import treeserve.device_slots
from treeserve.config import SchedulerConfig
from treeserve.device_slots import DeviceSlots
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Plan

CPU = torch.device("cpu")
CONFIG = SchedulerConfig(num_pages=600, page_size=4, token_budget=64, sharing="always")


@pytest.fixture
def num_sent(monkeypatch) -> list[int]:
    """Slots of each update that sent any."""
    sizes, send = [], treeserve.device_slots.send

    def counted(arrays, device):
        sizes.append(len(arrays[-1]))
        return send(arrays, device)

    monkeypatch.setattr(treeserve.device_slots, "send", counted)
    return sizes


def assert_holds(slots: DeviceSlots, plan: Plan) -> None:
    held = slots.entries.numpy()
    for start, end in zip(plan.item_slot_starts, plan.item_slot_ends, strict=True):
        assert np.array_equal(held[start:end], plan.item_slots[start:end])


def add_some(scheduler: Scheduler, rng: np.random.Generator, number: int) -> None:
    prompt = [1, 2, 3] * int(rng.integers(1, 9)) + rng.integers(0, 4, rng.integers(1, 9)).tolist()
    n, most = int(rng.integers(1, 5)), int(rng.integers(1, 90))
    scheduler.add(request(str(number), prompt, n=n, max_tokens=most, stop=[0]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("part_launched", [1.0, 0.6])
def test_random_traffic(seed, part_launched, num_sent):
    """Steps that are planned and never launched leave nothing stale behind."""
    rng = np.random.default_rng(seed)
    scheduler, device = Scheduler(CONFIG), make_device(CONFIG)
    slots = DeviceSlots(CPU, num_entries=64)
    addresses = {slots.entries.data_ptr()}
    num_launched = 0
    for number in range(400):
        if number < 250 and rng.random() < 0.25:
            add_some(scheduler, rng, number)
        step = scheduler.schedule()
        if step is None:
            continue
        if rng.random() < part_launched:
            slots.update(step.plan)
            assert_holds(slots, step.plan)
            addresses.add(slots.entries.data_ptr())
            num_launched += 1
        complete(scheduler, step, device.run(step))
    assert num_launched > 100
    assert len(addresses) > 1
    assert num_sent


def test_a_step_in_which_nothing_was_written_sends_nothing(num_sent):
    scheduler, device = Scheduler(CONFIG), make_device(CONFIG)
    scheduler.add(request("a", [1, 2, 3], n=8, max_tokens=60))
    slots, sent = DeviceSlots(CPU), []
    while (step := scheduler.schedule()) is not None:
        before = len(num_sent)
        slots.update(step.plan)
        assert_holds(slots, step.plan)
        sent.append(sum(num_sent[before:]))
        complete(scheduler, step, device.run(step))
    steady = sent[10:-3]
    assert 0 in steady
    assert max(steady) < 8 * 40


def test_an_update_that_fails_half_way_is_made_again_in_full(num_sent, monkeypatch):
    scheduler, device = Scheduler(CONFIG), make_device(CONFIG)
    scheduler.add(request("a", [1, 2, 3], n=4, max_tokens=60))
    slots, counted = DeviceSlots(CPU), treeserve.device_slots.send

    def broken(_arrays, _device):
        raise RuntimeError("no room")

    num_failed = 0
    while (step := scheduler.schedule()) is not None:
        if step.number % 7 == 5:
            monkeypatch.setattr(treeserve.device_slots, "send", broken)
            try:
                slots.update(step.plan)
            except RuntimeError:
                num_failed += 1
            monkeypatch.setattr(treeserve.device_slots, "send", counted)
        slots.update(step.plan)
        assert_holds(slots, step.plan)
        complete(scheduler, step, device.run(step))
    assert num_failed


def test_plans_of_two_planners_are_not_taken_for_one_anothers():
    slots, pairs = DeviceSlots(CPU), []
    for first in (1, 2):
        scheduler = Scheduler(CONFIG)
        scheduler.add(request("other", [9] * 5 * first, max_tokens=60))
        scheduler.add(request("a", [first] * 9, n=3, max_tokens=60))
        pairs.append((scheduler, make_device(CONFIG)))
    for _ in range(20):
        for scheduler, device in pairs:
            step = scheduler.schedule()
            slots.update(step.plan)
            assert_holds(slots, step.plan)
            complete(scheduler, step, device.run(step))


def test_a_plan_that_knows_nothing_of_the_last_is_sent_whole():
    scheduler = Scheduler(CONFIG)
    scheduler.add(request("a", [1, 2, 3], max_tokens=4))
    plan = replace(scheduler.schedule().plan, slot_changes=None)
    slots = DeviceSlots(CPU)
    for shift in (0, 1):
        moved = replace(plan, item_slots=plan.item_slots + np.int32(shift))
        slots.update(moved)
        assert_holds(slots, moved)
