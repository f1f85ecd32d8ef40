"""A step that is told to another rank is the very step, however little of it is sent."""

from dataclasses import replace

import numpy as np
import pytest
from kv_on_paper import complete, drawn, make_device, request, run_alone

from treeserve.config import SchedulerConfig
from treeserve.ranks.step_message import NUM_ARRAYS, StepReader, StepWriter
from treeserve.scheduler.scheduler import Scheduler

CONFIG = SchedulerConfig(num_pages=600, page_size=4, token_budget=64, sharing="always")
ALPHABET = 4


def random_request(rng: np.random.Generator, number: int):
    prompt = [1, 2, 3] * int(rng.integers(1, 9)) + rng.integers(0, 4, rng.integers(1, 9)).tolist()
    n, most = int(rng.integers(1, 5)), int(rng.integers(1, 40))
    return request(str(number), prompt, n=n, max_tokens=most, stop=[0])


@pytest.mark.parametrize("seed", range(3))
def test_rows_attend_to_their_own_context_on_the_rank_that_was_told(seed):
    rng = np.random.default_rng(seed)
    scheduler, device = Scheduler(CONFIG), make_device(CONFIG, ALPHABET)
    writer, reader = StepWriter(), StepReader()
    updates, requests, num_whole, num_steps = [], {}, 0, 0
    while len(requests) < 60 or scheduler.has_work():
        if len(requests) < 60 and rng.random() < 0.3:
            sent = random_request(rng, len(requests))
            requests[sent.request_id] = sent
            scheduler.add(sent)
        step = scheduler.schedule()
        if step is None:
            continue
        computed = step
        if step.num_rows:
            message = writer.write(step, 0)
            assert len(message) == NUM_ARRAYS
            assert {array.dtype for array in message} == {np.dtype(np.int32)}
            num_whole += len(message[13]) == len(step.plan.item_slots)
            received = reader.read([array.copy() for array in message]).step
            # Draws and kept logits stay with rank 0.
            computed = replace(received, draws=step.draws, keeps=step.keeps, scores=step.scores)
        num_steps += 1
        tokens = device.run(computed)
        updates += complete(scheduler, step, tokens)
    for (request_id, index), tokens in drawn(updates).items():
        assert tokens == run_alone(requests[request_id], index, ALPHABET)
    assert num_whole < num_steps / 4


def test_scores_and_unread_tokens_are_told():
    scheduler = Scheduler(CONFIG)
    scored = request("0", [1, 2, 3, 4, 5], prompt_logprobs=2)
    scheduler.add(scored)
    step = scheduler.schedule()
    read = StepReader().read(StepWriter().write(step, 3))
    assert read.num_last_drawn == 3
    assert read.step.scores.num_top == step.scores.num_top
    assert np.array_equal(read.step.scores.rows, step.scores.rows)
    assert np.array_equal(read.step.scores.targets, step.scores.targets)
    assert read.step.number == step.number


def test_a_message_that_was_never_read_is_not_built_upon():
    """A reader that starts with a later writer's first message has all that it needs."""
    scheduler, device = Scheduler(CONFIG), make_device(CONFIG, ALPHABET)
    scheduler.add(request("0", [1, 2, 3, 1, 2], n=2, max_tokens=4))
    first = scheduler.schedule()
    StepWriter().write(first, 0)
    complete(scheduler, first, device.run(first))
    second = scheduler.schedule()
    message = StepWriter().write(second, 0)
    read = StepReader().read(message).step
    for start, end in zip(read.plan.item_slot_starts, read.plan.item_slot_ends, strict=True):
        assert np.array_equal(read.plan.item_slots[start:end], second.plan.item_slots[start:end])


def test_where_modules_lay_tokens_out_is_told():
    scheduler = Scheduler(CONFIG)
    scheduler.add(request("0", [1, 2, 3]))
    step = scheduler.schedule()
    assert StepReader().read(StepWriter().write(step, 0)).step.maybe_model_positions is None
    spaced = replace(step, maybe_model_positions=step.positions * 7)
    read = StepReader().read(StepWriter().write(spaced, 0)).step
    assert np.array_equal(read.model_positions, step.positions * 7)
    assert np.array_equal(read.positions, step.positions)
