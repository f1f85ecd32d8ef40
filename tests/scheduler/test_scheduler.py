"""What requests get from the scheduler: prompts computed once, budgets kept, pages given back."""

import dataclasses

import numpy as np
import pytest
from kv_on_paper import complete, drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.scheduler import Scheduler

PROMPT = np.random.default_rng(0).integers(0, 4, 500).tolist()


def make(**options):
    config = SchedulerConfig(**{"num_pages": 400, "token_budget": 128, **options})
    return Scheduler(config, CostModel(token_cost=1, state_cost=2, item_cost=4)), make_device(
        config
    )


def test_64_equal_prompts_are_computed_once():
    scheduler, device = make()
    requests = [request(f"r{i}", PROMPT, max_tokens=3) for i in range(64)]
    for each in requests:
        scheduler.add(each)
    steps, updates = run_until_idle(scheduler, device)
    assert sum(step.num_prompt_rows for step in steps) == 500
    assert all(drawn(updates)[each.request_id, 0] == run_alone(each, 0, 4) for each in requests)


def test_equal_prompts_that_come_while_and_after_the_first_are_computed():
    scheduler, device = make()
    usage = {}
    for i in range(32):
        scheduler.add(request(f"r{i}", PROMPT, max_tokens=1))
    for _ in range(2):
        step = scheduler.schedule()
        assert step.num_prompt_rows == 128
        assert scheduler.complete(step, device.run(step)) == []
    for i in range(32, 64):
        scheduler.add(request(f"r{i}", PROMPT, max_tokens=1))
    while (step := scheduler.schedule()) is not None:
        for update in complete(scheduler, step, device.run(step)):
            usage[update.request_id] = scheduler.usage(update.request_id)
    assert device.num_prompt_rows == 500
    scheduler.add(request("late", PROMPT, n=3, max_tokens=1))
    step = scheduler.schedule()
    assert (step.num_rows, len(step.draws), step.plan.num_items) == (0, 3, 0)
    assert len(scheduler.complete(step, device.run(step))) == 3
    usage["late"] = scheduler.usage("late")
    assert usage["r0"].computed_tokens == 500
    assert {usage[f"r{i}"].shared_tokens for i in range(1, 32)} == {500}
    assert {usage[f"r{i}"].shared_tokens for i in range(32, 64)} == {244}
    assert {usage[f"r{i}"].cached_tokens for i in range(32, 64)} == {256}
    assert usage["late"].cached_tokens == 500


def test_the_last_token_is_computed_again_where_its_logits_are_gone():
    scheduler, device = make(kept_logits=1)
    for name, prompt in [("a", PROMPT[:100]), ("b", PROMPT[:60])]:
        scheduler.add(request(name, prompt, max_tokens=1))
        run_until_idle(scheduler, device)
    assert device.num_prompt_rows == 101, "the end of b lies within a: one row, for its logits"
    scheduler.add(request("again", PROMPT[:100], n=5, max_tokens=1))
    step = scheduler.schedule()
    assert step.positions.tolist() == [99]
    assert step.write_slots.tolist() == [-1]
    scheduler.complete(step, device.run(step))
    usage = scheduler.usage("again")
    assert (usage.cached_tokens, usage.shared_tokens, usage.computed_tokens) == (99, 0, 1)


def test_a_prompt_goes_on_from_one_that_ends_within_it_in_the_same_step():
    scheduler, device = make()
    scheduler.add(request("long", PROMPT[:100], max_tokens=1))
    scheduler.add(request("short", PROMPT[:60], max_tokens=1))
    step = scheduler.schedule()
    assert (step.num_rows, len(step.draws), step.logits_rows.tolist()) == (100, 2, [59, 99])
    scheduler.complete(step, device.run(step))
    assert scheduler.usage("long").shared_tokens == 60


def test_suffixes_are_computed_in_the_step_that_computes_their_trunk():
    scheduler, device = make(token_budget=600)
    for i in range(4):
        scheduler.add(request(f"r{i}", [*PROMPT, i, i], max_tokens=1))
    step = scheduler.schedule()
    assert step.num_prompt_rows == 500 + 4 * 2
    scheduler.complete(step, device.run(step))
    assert not scheduler.has_work()


def test_an_abort_hands_a_pending_segment_to_whoever_is_left():
    scheduler, device = make()
    for name in ("a", "b"):
        scheduler.add(request(name, PROMPT, max_tokens=1))
    step = scheduler.schedule()
    scheduler.complete(step, device.run(step))
    scheduler.abort("a")
    scheduler.check()
    _, updates = run_until_idle(scheduler, device)
    assert device.num_prompt_rows == 500
    assert [update.request_id for update in updates] == ["b"]


def test_an_abort_of_the_last_who_needs_a_pending_segment_keeps_what_is_computed():
    scheduler, device = make()
    scheduler.add(request("a", PROMPT, max_tokens=1))
    step = scheduler.schedule()
    scheduler.complete(step, device.run(step))
    scheduler.abort("a")
    scheduler.check()
    counts = scheduler.counts()
    assert counts.used_pages == counts.cached_pages == 128 // 16
    assert scheduler.schedule() is None
    scheduler.add(request("b", PROMPT, max_tokens=1))
    run_until_idle(scheduler, device)
    assert device.num_prompt_rows == 500


def test_a_failed_step_ends_its_requests_and_no_other():
    scheduler, device = make(token_budget=100)
    scheduler.add(request("a", PROMPT[:90], max_tokens=1))
    scheduler.add(request("b", PROMPT, max_tokens=2))
    scheduler.add(request("c", PROMPT, max_tokens=2))
    step = scheduler.schedule()
    assert scheduler.fail(step) == ["a", "b"]
    scheduler.check()
    assert scheduler.counts().cached_pages == 0
    _, updates = run_until_idle(scheduler, device)
    assert drawn(updates) == {("c", 0): run_alone(request("c", PROMPT, max_tokens=2), 0, 4)}


def test_short_prompts_do_not_wait_for_the_end_of_a_long_one():
    """They share its steps, and it keeps half of the rows."""
    scheduler, device = make(token_budget=100)
    scheduler.add(request("long", PROMPT, max_tokens=1))
    scheduler.complete(step := scheduler.schedule(), device.run(step))
    for i in range(4):
        scheduler.add(request(f"short{i}", [9 + i] * 20, max_tokens=1))
    steps, updates = run_until_idle(scheduler, device)
    assert [u.request_id for u in updates] == ["short0", "short1", "short2", "short3", "long"]
    assert [step.num_prompt_rows for step in steps] == [100, 100, 100, 100, 80]
    assert [len(step.draws) for step in steps] == [2, 2, 0, 0, 1]


def test_a_long_prompt_keeps_half_of_the_rows_however_many_short_ones_come():
    scheduler, device = make(token_budget=100, num_pages=2000)
    scheduler.add(request("long", PROMPT, max_tokens=1))
    scheduler.complete(step := scheduler.schedule(), device.run(step))
    ended = []
    for number in range(20):
        for i in range(5):
            scheduler.add(request(f"{number}.{i}", [9 + 5 * number + i] * 25, max_tokens=1))
        step = scheduler.schedule()
        updates = complete(scheduler, step, device.run(step))
        ended.append([update.request_id for update in updates])
    assert ["long" in names for names in ended].index(True) == 7, "eight steps of 50 rows"


def test_samples_start_in_waves_within_max_running_and_nobody_overtakes():
    scheduler, device = make(max_running=3, policy="fcfs")
    scheduler.add(request("a", PROMPT[:20], n=7, max_tokens=4))
    scheduler.add(request("b", PROMPT[:5], max_tokens=4))
    steps, updates = run_until_idle(scheduler, device)
    assert max(len(step.draws) for step in steps) == 3
    assert [u.request_id for u in updates][-1] == "b"
    assert len(drawn(updates)) == 8
    assert sum(step.num_prompt_rows for step in steps) == 20 + 1, "b's end lies within a"


def test_pages_are_reserved_so_that_whoever_runs_can_finish():
    scheduler, device = make(num_pages=20, page_size=4)
    requests = [request(f"r{i}", PROMPT[i : i + 9], n=2, max_tokens=30) for i in range(10)]
    for each in requests:
        scheduler.add(each)
    _, updates = run_until_idle(scheduler, device)
    for each in requests:
        for index in range(2):
            assert drawn(updates)[each.request_id, index] == run_alone(each, index, 4)
    assert scheduler.counts().num_evicted_tokens > 0


def test_a_cached_prefix_in_many_pieces_never_blocks_a_request_that_fits():
    scheduler, device = make(num_pages=8, page_size=4)
    for end in range(1, 8):
        scheduler.add(request("piece", PROMPT[:end], max_tokens=1))
        run_until_idle(scheduler, device)
    assert scheduler.counts().used_pages == 7
    scheduler.add(request("whole", PROMPT[:8], max_tokens=21))
    _, updates = run_until_idle(scheduler, device)
    assert len(updates) == 21


def test_turns_of_a_conversation_reuse_what_was_drawn():
    scheduler, device = make()
    first = request("turn", PROMPT[:50], max_tokens=20)
    scheduler.add(first)
    _, updates = run_until_idle(scheduler, device)
    scheduler.add(request("next", [*PROMPT[:50], *drawn(updates)["turn", 0], 3, 3], max_tokens=1))
    step = scheduler.schedule()
    assert step.num_prompt_rows == 3, "the last drawn token and two new ones"
    scheduler.complete(step, device.run(step))
    assert scheduler.usage("next").cached_tokens == 69


def test_samples_stop_at_a_stop_token_or_at_their_length():
    scheduler, device = make()
    requests = [request(f"r{t}", PROMPT[:10], n=3, max_tokens=5, stop=[t]) for t in range(9)]
    for each in requests:
        scheduler.add(each)
    _, updates = run_until_idle(scheduler, device)
    outputs = drawn(updates)
    reasons = {(u.request_id, u.sample_index): u.finish_reason for u in updates}
    for each in requests:
        for index in range(3):
            tokens = outputs[each.request_id, index]
            assert tokens == run_alone(each, index, 4)
            stopped = tokens[-1] in each.stop_token_ids
            assert reasons[each.request_id, index] == ("stop" if stopped else "length")
    assert set(reasons.values()) == {"stop", "length"}


def test_namespaces_share_nothing():
    scheduler, device = make(token_budget=2000)
    for namespace in ("x", "y"):
        scheduler.add(request(namespace, PROMPT, max_tokens=1, namespace=namespace))
    run_until_idle(scheduler, device)
    assert device.num_prompt_rows == 1000


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": [0] * 6401}),
        ("max_tokens", {"prompt": [0] * 6384, "max_tokens": 2}),
        ("max_tokens", {"prompt": [0], "max_tokens": 0}),
        ("n", {"prompt": [0], "n": 0}),
    ],
)
def test_what_can_never_be_served_is_refused(field, options):
    scheduler, _ = make()
    with pytest.raises(InvalidRequest) as error:
        scheduler.add(request("a", **options))
    assert error.value.field == field
    assert not scheduler.has_work()


def test_what_fills_the_pool_to_the_last_slot_is_served():
    scheduler, device = make(num_pages=4, page_size=4)
    scheduler.add(request("a", [1] * 16, max_tokens=1))
    scheduler.add(request("b", [2] * 8, n=3, max_tokens=5))
    _, updates = run_until_idle(scheduler, device)
    assert len(updates) == 1 + 3 * 5


def test_misuse_is_an_error():
    scheduler, device = make()
    scheduler.add(request("a", PROMPT))
    with pytest.raises(ValueError, match="in use"):
        scheduler.add(request("a", PROMPT))
    step = scheduler.schedule()
    for call in (scheduler.schedule, scheduler.clear_cache, lambda: scheduler.abort("a")):
        with pytest.raises(RuntimeError, match="in flight"):
            call()
    scheduler.complete(step, device.run(step))
    with pytest.raises(ValueError, match="not in flight"):
        scheduler.complete(step, [])
    with pytest.raises(ValueError, match="int32"):
        scheduler.add(dataclasses.replace(request("b", [1]), prompt=np.array([1], dtype=np.int64)))
    scheduler.abort("nobody")
    scheduler.abort("a", 17)
    scheduler.check()


def test_usage_stays_until_the_next_step():
    scheduler, device = make()
    scheduler.add(request("a", PROMPT[:10], max_tokens=3))
    step = scheduler.schedule()
    scheduler.complete(step, device.run(step))
    scheduler.abort("a", 0)
    assert scheduler.usage("a").prompt_tokens == 10
    assert scheduler.schedule() is None
    with pytest.raises(KeyError):
        scheduler.usage("a")
