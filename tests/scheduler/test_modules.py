"""Prompt modules on paper: whoever imports one reads it as it is when it is encoded alone."""

from itertools import pairwise

import numpy as np
import pytest
from kv_on_paper import complete, drawn, make_device, request, run_alone
from module_traffic import ModuleTraffic, module, module_set
from overlapped import Overlapped

from treeserve.config import SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.scheduler import Scheduler

A = module("a", [1, 0, 2, 1, 3, 0, 1], start=0)
B = module("b", [2, 2, 1, 0, 3], start=7, step=2)
C = module("c", [0, 3, 3, 1, 2, 0, 1, 1, 0], start=7)
OWN = [1, 2, 3]


class House:
    """A scheduler and its device."""

    def __init__(self, *, num_pages: int = 100, cost_model=None, overlap: bool = False, **options):
        defaults = {"page_size": 1, "token_budget": 4, "max_running": 4, "reserve": 1.0}
        self.config = SchedulerConfig(num_pages=num_pages, **{**defaults, **options})
        self.scheduler = Scheduler(self.config, cost_model)
        self.device = make_device(self.config)
        self.overlapped = None
        if overlap:
            self.overlapped = Overlapped(self.scheduler, self.device, self.scheduler.check)
        self.requests = {}
        self.updates = []
        self.usages = {}

    def add(self, name: str, *modules, own=OWN, base=40, **options):
        modules = module_set(modules, base=base) if modules else None
        self.requests[name] = request(name, own, modules=modules, **options)
        self.scheduler.add(self.requests[name])

    def steps(self, number: int) -> list:
        """The next steps, carried out."""
        done = []
        while len(done) < number and (step := self.scheduler.schedule()) is not None:
            self.scheduler.check()
            updates = complete(self.scheduler, step, self.device.run(step))
            self.scheduler.check()
            self.usages |= {u.request_id: self.scheduler.usage(u.request_id) for u in updates}
            self.updates += updates
            done.append(step)
        return done

    def run(self) -> list:
        """All steps there are; every sample that drew anything drew what it would alone."""
        steps = self.steps(10_000)
        assert not self.scheduler.has_work()
        for (name, index), tokens in drawn(self.updates).items():
            assert tokens == run_alone(self.requests[name], index, 4)
        return steps


def encodes(step) -> bool:
    return step.num_rows > 0 and not len(step.draws) and step.maybe_model_positions is not None


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_random_imports_read_modules_encoded_alone_and_the_books_always_balance(seed, overlap):
    traffic = ModuleTraffic(seed, overlap=overlap)
    traffic.run(num_requests=15)
    traffic.assert_as_alone()
    traffic.assert_modules_are_encoded_alone()
    counts = traffic.scheduler.counts()
    assert counts.used_pages == counts.cached_pages, "only the tree holds pages"
    traffic.scheduler.clear_cache()
    traffic.scheduler.check()
    assert traffic.scheduler.counts().used_pages == 0


@pytest.mark.slow
def test_random_imports_visit_what_is_rare(record_property):
    runs = [
        ModuleTraffic(100 + seed, overlap=overlap, check=False)
        for seed in range(16)
        for overlap in (False, True)
    ]
    for run in runs:
        run.run(num_requests=25)
        run.assert_as_alone()
        run.assert_modules_are_encoded_alone()
    counts = [run.scheduler.counts() for run in runs]
    num_steps = sum(run.num_steps for run in runs)
    record_property("steps", num_steps)
    assert num_steps > 5000
    assert sum(run.num_encoding for run in runs) > 500
    assert sum(run.num_grouped for run in runs) > 200
    assert sum(run.num_failed for run in runs) > 20
    assert sum(run.num_found for run in runs) > 5000
    assert sum(c.preempted_samples for c in counts) > 20
    assert sum(c.tally.num_forked for c in counts) > 50
    assert sum(c.num_evicted_tokens for c in counts) > 5000
    assert sum(c.tally.encoded_module_tokens for c in counts) > 5000


def test_a_step_that_encodes_has_rows_of_one_module_and_decoding_goes_on_in_between():
    house = House()
    house.add("plain", max_tokens=20)
    house.steps(2)
    house.add("one", A, C)
    steps = house.run()
    encoding = [encodes(step) for step in steps]
    assert [step.num_rows for step in steps if encodes(step)] == [4, 3, 4, 4, 1]
    assert not any(a and b for a, b in pairwise(encoding))


def test_rows_stand_where_the_schema_says_and_own_text_after_arguments_at_the_base():
    house = House(token_budget=50)
    modules = module_set([A, B], arguments=[17, 19], base=60)
    house.requests["one"] = request("one", [1, 2, 3, 0], modules=modules, max_tokens=3)
    house.scheduler.add(house.requests["one"])
    steps = house.run()
    positions = [step.model_positions.tolist() for step in steps]
    assert positions == [A.positions.tolist(), B.positions.tolist(), [17, 19, 60, 61], [62], [63]]
    assert [step.positions.tolist() for step in steps[2:]] == [[0, 1, 2, 3], [4], [5]]


def test_a_module_that_many_wait_for_is_encoded_once_and_then_stays():
    house = House()
    for name in ("one", "two", "three"):
        house.add(name, A, B, own=[1, 2, len(name) % 4])
    house.add("four", A)
    steps = house.run()
    assert sum(step.num_rows for step in steps if encodes(step)) == len(A) + len(B)
    house.add("five", B, A)
    assert not any(encodes(step) for step in house.run())


def test_usage_tells_modules_from_what_is_exact():
    house = House()
    house.add("one", A, B)
    house.run()
    usage = house.usages["one"]
    assert (usage.prompt_tokens, usage.module_tokens) == (15, 12)
    assert (usage.cached_tokens, usage.computed_tokens, usage.encoded_tokens) == (0, 3, 12)
    house.add("two", A, B)
    house.run()
    usage = house.usages["two"]
    assert (usage.prompt_tokens, usage.module_tokens) == (15, 12)
    assert (usage.cached_tokens, usage.computed_tokens, usage.encoded_tokens) == (3, 0, 0)


def test_equal_own_text_is_shared_beneath_equal_sets_alone():
    house = House()
    for name, modules, base in [
        ("one", (A, B), 40),
        ("other base", (A, B), 41),
        ("other order", (B, A), 40),
        ("fewer", (A,), 40),
        ("plain", (), 40),
    ]:
        house.add(name, *modules, base=base)
        house.run()
        assert house.usages[name].cached_tokens == 0
    house.add("again", A, B)
    house.run()
    assert house.usages["again"].cached_tokens == 3


def test_a_continuation_outlives_its_module_and_is_used_when_that_is_encoded_again():
    house = House(token_budget=50)
    house.add("one", A, B, max_tokens=1)
    house.run()
    tree, _ = house.scheduler.insides()
    [own] = [segment for segment in tree.segments() if not segment.is_module]
    # Own text that is used again and again is worth more than its modules.
    for _ in range(50):
        tree.count_hit(own)
    for each in tree.segments():
        each.hits = each.hits if each is own else 0
        tree._order.rerank(each)
    tree.evict(1)
    [left] = [segment for segment in tree.segments() if segment.is_module]
    assert own in tree.segments()
    house.scheduler.check()
    house.add("two", A, B, max_tokens=1)
    house.run()
    usage = house.usages["two"]
    assert (usage.cached_tokens, usage.encoded_tokens) == (3, len(A) + len(B) - len(left))


def test_two_requests_whose_modules_do_not_fit_together_both_end():
    for policy in ("tree", "fcfs", "priority", "longest-prefix"):
        house = House(num_pages=16, policy=policy)
        for index in range(3):
            house.add(f"a{index}", A, max_tokens=4)
            house.add(f"c{index}", C, max_tokens=4)
        house.run()
        assert not house.scheduler.has_work()


def test_a_running_sample_takes_the_memory_that_is_held_for_one_who_waits():
    house = House(num_pages=24, reserve=0.0)
    house.add("long", max_tokens=20)
    house.steps(3)
    house.add("waits", A, B, max_tokens=2)
    house.run()
    assert house.scheduler.counts().preempted_samples == 0


def test_what_nobody_waits_for_any_more_leaves_nothing_behind():
    house = House()
    house.add("one", A)
    [step] = house.steps(1)
    assert encodes(step)
    house.scheduler.abort("one")
    house.scheduler.check()
    assert house.scheduler.counts().used_pages == 0
    house.add("two", A)
    assert sum(s.num_rows for s in house.run() if encodes(s)) == len(A)


def test_one_who_waits_beside_goes_on_when_the_first_is_aborted_half_way():
    house = House()
    house.add("one", C)
    house.add("two", C)
    house.steps(1)
    house.scheduler.abort("one")
    house.run()
    assert house.usages["two"].module_tokens == len(C)


def test_a_step_that_fails_ends_the_one_for_whom_it_encoded_and_nobody_else():
    house = House()
    house.add("one", A)
    house.add("two", A)
    step = house.scheduler.schedule()
    assert encodes(step)
    house.device.spoil(step)
    assert house.scheduler.fail(step) == ["one"]
    house.scheduler.check()
    house.run()
    assert not house.scheduler.has_work()


@pytest.mark.parametrize("num_steps", range(1, 8))
def test_a_module_is_imported_by_nobody_before_its_last_step_has_been_read(num_steps):
    """A step on its way may still fail, and take the module back."""
    house = House(overlap=True, token_budget=7)
    for name in ("one", "two"):
        house.add(name, A, own=[1, len(name) % 4], max_tokens=3)
    updates = []
    for _ in range(num_steps):
        updates += house.overlapped.step()
    if house.overlapped.flying is not None:
        failed = house.overlapped.fail_to_read()
        assert "one" in failed or num_steps > 1
    updates += house.overlapped.run_until_idle()
    outputs = drawn(updates)
    alone = run_alone(house.requests["two"], 0, 4)
    assert outputs.get(("two", 0), ()) == alone[: len(outputs.get(("two", 0), ()))]


def test_modules_of_several_sets_are_read_once_where_that_pays():
    costly = CostModel(token_cost=1, state_cost=1000, item_cost=0)
    for cost_model, num_items in ((CostModel(1, 0, 0), 2), (costly, 0)):
        house = House(token_budget=50, cost_model=cost_model)
        house.add("one", A, B, max_tokens=9)
        house.add("two", A, C, max_tokens=9)
        house.add("three", A, B, C, max_tokens=9, own=[0])
        decoding = [step for step in house.run() if step.num_rows == 3 and len(step.draws) == 3]
        counts = decoding[-1].plan.counts
        assert counts.origin == "reused", "the plan goes on from step to step"
        assert (counts.num_module_items > 0) == (num_items > 0)
        if num_items:
            assert counts.module_tokens_read == len(A) + len(B) + len(C)
            assert counts.tokens_read < counts.tokens_read_flat


def test_the_snapshot_of_a_plan_names_modules_and_says_why_they_are_read_once():
    house = House(token_budget=50, cost_model=CostModel(1, 0, 0))
    house.add("one", A, B, max_tokens=9)
    house.add("two", A, C, max_tokens=9)
    while house.scheduler.counts().awaiting_samples or house.scheduler.counts().waiting_requests:
        house.steps(1)
    house.steps(2)
    [planned] = house.scheduler.plan_snapshot().segments
    assert (planned.start_position, planned.end_position, planned.num_rows) == (0, len(A), 2)
    assert planned.reason.startswith("a module of 2 sets is cheaper alone for 2 rows")


def test_modules_that_never_fit_and_public_prompts_are_refused_by_name():
    house = House(num_pages=16)
    with pytest.raises(InvalidRequest, match="16 tokens of modules take 16 pages") as caught:
        house.add("one", A, C)
    assert caught.value.field == "modules"
    with pytest.raises(InvalidRequest, match="public beginning"):
        house.add("two", A, num_public_tokens=1)
    assert not house.scheduler.has_work()


def test_a_false_key_never_leads_to_other_tokens():
    house = House()
    house.add("one", A)
    house.run()
    house.add("two", module("a", [3, 3, 3]))
    house.add("three", module("a", A.token_ids.tolist(), start=1))
    house.run()
    assert np.sum([house.usages[name].encoded_tokens for name in ("two", "three")]) == 10


def test_one_who_is_held_up_by_memory_does_not_keep_others_from_their_modules():
    house = House(num_pages=60, policy="priority", token_budget=20)
    house.add("long", max_tokens=30)
    house.add("large", A, max_tokens=25)
    house.steps(4)
    assert house.scheduler.is_waiting("large"), "its modules fit beside the long one, it does not"
    house.add("urgent", B, max_tokens=4, priority=3)
    house.run()
    ends = [u.request_id for u in house.updates if u.finish_reason is not None]
    assert ends == ["urgent", "long", "large"]


def test_a_sample_whose_modules_are_read_with_others_from_one_step_to_the_next_reads_its_own():
    """The tokens before its own are as many as before, and others."""
    p, q, r = (module(key, [number] * 5, 7 * number) for number, key in enumerate("pqr"))
    house = House(max_running=2, token_budget=50, cost_model=CostModel(1, 0, 0))
    house.add("one", p, q, max_tokens=20)
    house.add("two", p, r, max_tokens=5)
    house.add("three", q, r, max_tokens=5)
    grouped = [step.plan.counts.module_tokens_read for step in house.run()]
    assert 5 in grouped
    assert "three" in house.usages


def test_a_preempted_sample_starts_again_after_everything_of_it_was_evicted():
    house = House(num_pages=44, reserve=0.0, token_budget=50)
    house.add("one", A, max_tokens=24)
    house.add("two", B, max_tokens=24, own=[0, 1])
    while not house.scheduler.counts().preempted_samples:
        house.steps(1)
    house.scheduler.clear_cache()
    house.run()
    assert len(drawn(house.updates)) == 2
