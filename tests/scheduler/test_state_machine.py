"""Anything in any order, against a naive model: what a sample draws alone, and who is alive."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from kv_on_paper import Context, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.scheduler.cost import CostModel
from treeserve.scheduler.request import SampleUpdate
from treeserve.scheduler.scheduler import Scheduler

ALPHABET = 3
TRUNKS = np.random.default_rng(5).integers(0, ALPHABET, (3, 24)).tolist()


class SchedulerMachine(RuleBasedStateMachine):
    """The model is `alive`: for each sample that goes on, what it has still to draw."""

    @initialize(
        page_size=st.sampled_from([1, 3, 8]),
        num_slots=st.sampled_from([96, 144, 1200]),
        token_budget=st.sampled_from([1, 5, 40]),
        max_running=st.sampled_from([1, 4, 64]),
        kept_logits=st.sampled_from([1, 2, 32]),
        sharing=st.sampled_from(["on", "always", "off"]),
        item_cost=st.sampled_from([0.0, 6.0]),
        max_item_tokens=st.sampled_from([None, 5]),
    )
    def start(self, page_size, num_slots, item_cost, max_item_tokens, **options):
        self.config = SchedulerConfig(
            num_pages=num_slots // page_size, page_size=page_size, **options
        )
        cost_model = CostModel(1.0, item_cost / 2, item_cost, max_item_tokens)
        self.scheduler = Scheduler(self.config, cost_model)
        self.device = make_device(self.config, ALPHABET)
        self.alive: dict[str, dict[int, list[int]]] = {}
        self.prompts: dict[str, int] = {}
        self.outputs: list[Context] = []

    @rule(
        trunk=st.sampled_from(TRUNKS),
        cut=st.integers(0, 24),
        suffix=st.lists(st.integers(0, ALPHABET - 1), max_size=8),
        n=st.integers(1, 4),
        max_tokens=st.integers(1, 7),
        stop=st.sampled_from([(), (1,)]),
        namespace=st.sampled_from(["", "b"]),
    )
    def add(self, trunk, cut, suffix, n, max_tokens, stop, namespace):
        self._add([*trunk[:cut], *suffix] or [0], n, max_tokens, stop, namespace)

    @precondition(lambda self: self.outputs)
    @rule(data=st.data(), suffix=st.lists(st.integers(0, ALPHABET - 1), max_size=3))
    def add_after_an_output(self, data, suffix):
        context = data.draw(st.sampled_from(self.outputs))
        self._add([*context, *suffix][:40], 2, 5, (), "")

    @rule(num_steps=st.integers(1, 6))
    def step(self, num_steps):
        for _ in range(num_steps):
            step = self.scheduler.schedule()
            if step is None:
                assert not self.alive
                return
            self.scheduler.check()
            assert step.num_rows + len(step.draws) > 0
            assert step.num_rows <= self.config.token_budget
            tokens = self.device.run(step)
            for update in self.scheduler.complete(step, tokens):
                self._fold_back(update)

    @rule()
    def fail(self):
        step = self.scheduler.schedule()
        if step is None:
            return
        self.device.run(step)
        failed = self.scheduler.fail(step)
        assert {draw.request_id for draw in step.draws} <= set(failed)
        for request_id in failed:
            self._assert_usage(request_id)
            del self.alive[request_id]

    @rule(data=st.data())
    def abort(self, data):
        victim = data.draw(st.sampled_from([*self.alive, "nobody"]))
        self.scheduler.abort(victim)
        self.alive.pop(victim, None)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), index=st.integers(0, 4))
    def abort_sample(self, data, index):
        victim = data.draw(st.sampled_from(list(self.alive)))
        self.scheduler.abort(victim, index)
        self.alive[victim].pop(index, None)
        self._forget_if_done(victim)

    @rule()
    def clear_cache(self):
        cached = self.scheduler.counts().cached_pages
        num_tokens = self.scheduler.clear_cache()
        assert cached <= num_tokens, "at least one token in each page"
        assert self.scheduler.counts().cached_pages == 0

    @invariant()
    def books_balance(self):
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check()
        counts = self.scheduler.counts()
        assert self.scheduler.has_work() == bool(self.alive)
        assert counts.waiting_requests <= len(self.alive)
        assert counts.running_samples <= self.config.max_running
        assert 0 <= counts.cached_pages <= counts.used_pages <= counts.total_pages

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        _, updates = run_until_idle(self.scheduler, self.device)
        for update in updates:
            self._fold_back(update, may_ask_usage=False)
        assert not self.alive
        counts = self.scheduler.counts()
        assert counts.used_pages == counts.cached_pages
        self.scheduler.clear_cache()
        self.scheduler.check()
        assert self.scheduler.counts().used_pages == 0

    def _add(self, prompt, n, max_tokens, stop, namespace):
        request_id = f"r{len(self.prompts)}"
        each = request(
            request_id, prompt, n=n, max_tokens=max_tokens, stop=stop, namespace=namespace
        )
        self.scheduler.add(each)
        self.prompts[request_id] = len(prompt)
        self.alive[request_id] = {i: list(run_alone(each, i, ALPHABET)) for i in range(n)}
        self.outputs.append((*prompt, *self.alive[request_id][0]))

    def _fold_back(self, update: SampleUpdate, *, may_ask_usage: bool = True):
        left = self.alive[update.request_id][update.sample_index]
        assert update.token_id == left.pop(0)
        assert (update.finish_reason is not None) == (not left)
        if may_ask_usage:
            self._assert_usage(update.request_id)
        if not left:
            del self.alive[update.request_id][update.sample_index]
            self._forget_if_done(update.request_id)

    def _forget_if_done(self, request_id):
        if not self.alive[request_id]:
            del self.alive[request_id]

    def _assert_usage(self, request_id):
        usage = self.scheduler.usage(request_id)
        parts = (usage.cached_tokens, usage.shared_tokens, usage.computed_tokens)
        assert min(parts) >= 0
        assert sum(parts) == usage.prompt_tokens == self.prompts[request_id]


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
