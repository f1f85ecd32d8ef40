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
from kv_on_paper import (
    Context,
    Update,
    assert_scored,
    complete,
    contents_of,
    make_device,
    refused,
    request,
    run_alone,
    run_until_idle,
)
from module_traffic import module, module_set
from overlapped import Overlapped

from treeserve.config import SchedulerConfig
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.request import ScheduledFork
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.tree.prefix import Prefix

ALPHABET = 3
TRUNKS = np.random.default_rng(5).integers(0, ALPHABET, (3, 24)).tolist()
MODULES = [module("a", TRUNKS[0][:6]), module("b", TRUNKS[1][:3], 6), module("c", TRUNKS[2][:3], 9)]
IMPORTS = st.one_of(
    st.just([]), st.lists(st.sampled_from(MODULES), max_size=2, unique_by=lambda each: each.key)
)


class SchedulerMachine(RuleBasedStateMachine):
    """The model is `alive`: for each sample that goes on, what it has still to draw."""

    @initialize(
        page_size=st.sampled_from([1, 3, 8]),
        num_slots=st.sampled_from([66, 66, 96, 1200]),
        token_budget=st.sampled_from([2, 8, 40]),
        max_running=st.sampled_from([2, 8, 64]),
        kept_logits=st.sampled_from([1, 2, 32]),
        sharing=st.sampled_from(["on", "always", "off"]),
        policy=st.sampled_from(["tree", "fcfs", "priority", "longest-prefix"]),
        reserve=st.sampled_from([0.0, 0.0, 0.4, 1.0]),
        item_cost=st.sampled_from([0.0, 6.0]),
        max_item_tokens=st.sampled_from([None, 5]),
        overlap=st.booleans(),
    )
    def start(self, page_size, num_slots, item_cost, max_item_tokens, overlap, **options):
        self.config = SchedulerConfig(
            num_pages=num_slots // page_size,
            page_size=page_size,
            retained_fraction=0.2,
            tenant_weights={"a": 3.0},
            **options,
        )
        cost_model = CostModel(
            1.0, item_cost / 2, item_cost, 2 * item_cost, max_item_tokens=max_item_tokens
        )
        self.now = 0.0
        self.scheduler = Scheduler(self.config, cost_model, clock=lambda: self.now)
        self.device = make_device(self.config, ALPHABET)
        self.overlapped = None
        if overlap:
            self.overlapped = Overlapped(self.scheduler, self.device, self.scheduler.check)
        self.alive: dict[str, dict[int, list[int]]] = {}
        self.drawn: dict[tuple[str, int], list[int]] = {}
        self.requests: dict[str, object] = {}
        self.outputs: list[Context] = []
        self.retained: list[int] = []

    @rule(
        trunk=st.sampled_from(TRUNKS),
        cut=st.integers(0, 24),
        suffix=st.lists(st.integers(0, ALPHABET - 1), max_size=8),
        n=st.integers(1, 4),
        max_tokens=st.sampled_from([1, 2, 5, 11, 16]),
        stop=st.sampled_from([(), (1,)]),
        namespace=st.sampled_from(["", "b"]),
        public=st.sampled_from([0.0, 0.0, 0.6, 1.0]),
        tenant=st.sampled_from(["a", "b"]),
        priority=st.sampled_from([0, 0, 2, -1]),
        patience=st.sampled_from([None, None, 0.5, 4.0]),
        prompt_logprobs=st.sampled_from([None, None, 0]),
        imports=IMPORTS,
    )
    def add(self, trunk, cut, suffix, n, max_tokens, stop, public, patience, imports, **options):
        prompt = [*trunk[:cut], *suffix] or [0]
        if imports:
            options["modules"] = module_set(imports, arguments=range(len(prompt[:2])), base=20)
            public = 0
        self._add(
            prompt,
            n=n,
            max_tokens=max_tokens,
            stop=stop,
            num_public_tokens=int(public * len(prompt)),
            deadline=None if patience is None else self.now + patience,
            **options,
        )

    @precondition(lambda self: self.outputs)
    @rule(data=st.data(), suffix=st.lists(st.integers(0, ALPHABET - 1), max_size=3))
    def add_after_an_output(self, data, suffix):
        context = data.draw(st.sampled_from(self.outputs))
        self._add([*context, *suffix][:40], n=2, max_tokens=8)

    @precondition(lambda self: self.drawn)
    @rule(
        data=st.data(),
        back=st.integers(0, 7),
        n=st.integers(1, 3),
        max_tokens=st.integers(1, 6),
    )
    def fork(self, data, back, n, max_tokens):
        """Branches samples that run, wait, were preempted or ended, at any of their tokens."""
        keys = list(self.drawn)
        request_id, index = keys[-1 - data.draw(st.integers(0, min(11, len(keys) - 1)))]
        drawn = self.drawn[request_id, index]
        num_tokens = max(0, len(drawn) - back)
        parent = self.requests[request_id]
        prompt = [*parent.prompt.tolist(), *drawn[:num_tokens]]
        if len(prompt) > 48:
            return
        child_id = f"r{len(self.requests)}"
        fork = ScheduledFork(child_id, request_id, index, num_tokens, n, max_tokens)
        error = refused(lambda: self.scheduler.fork(fork), "parent", "modules")
        if error is not None:
            is_alive = index in self.alive.get(request_id, {})
            assert error.field == "modules" or not is_alive, "a living parent was not found"
            return
        namespace, num_public = parent.namespace, parent.num_public_tokens
        child = request(
            child_id,
            prompt,
            n=n,
            max_tokens=max_tokens,
            namespace=namespace,
            num_public_tokens=num_public,
            modules=parent.modules,
        )
        self._expect(child)

    @rule(num_steps=st.integers(1, 12), seconds=st.sampled_from([0.0, 0.1]))
    def step(self, num_steps, seconds):
        for _ in range(num_steps):
            if self.overlapped is not None:
                self._step_overlapped(self.overlapped, seconds)
                continue
            step = self.scheduler.schedule()
            self._forget_expired()
            if step is None:
                assert not self.alive
                return
            self.scheduler.check()
            assert step.num_rows + len(step.draws) > 0
            assert step.num_rows <= self.config.token_budget
            tokens = self.device.run(step)
            self.now += seconds
            for update in complete(self.scheduler, step, tokens):
                self._fold_back(update)

    @rule(seconds=st.sampled_from([0.2, 3.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(what=st.sampled_from(["read", "launch", "launch and then read"]))
    def fail(self, what):
        if self.overlapped is not None:
            self._fail_overlapped(self.overlapped, what)
            return
        step = self.scheduler.schedule()
        self._forget_expired()
        if step is None:
            return
        self.device.run(step)
        failed = self.scheduler.fail(step)
        assert {key.request_id for key in step.draws.samples} <= set(failed)
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

    @rule(
        trunk=st.sampled_from(TRUNKS),
        cut=st.integers(1, 24),
        namespace=st.sampled_from(["", "b"]),
        weight=st.sampled_from([0.5, 4.0]),
        seconds=st.sampled_from([1.0, 20.0]),
    )
    def retain(self, trunk, cut, namespace, weight, seconds):
        prefix = Prefix(np.array(trunk[:cut], dtype=np.int32), namespace)
        budget = int(0.2 * self.config.num_pages * self.config.page_size)
        error = refused(lambda: self.scheduler.retain(prefix, weight, seconds), "prefix")
        if error is None:
            self.retained.append(self.scheduler.retained()[-1].retained_id)
        else:
            assert str(budget) in error.description
        assert self.scheduler.counts().retained_tokens <= budget

    @precondition(lambda self: self.retained)
    @rule(data=st.data())
    def release(self, data):
        self.scheduler.release_retained(data.draw(st.sampled_from(self.retained)))

    @rule()
    def clear_cache(self):
        cached = self.scheduler.counts().cached_pages
        num_tokens = self.scheduler.clear_cache()
        assert cached <= num_tokens, "at least one token in each page"
        assert self.scheduler.counts().cached_pages == 0

    @rule()
    def look(self):
        """Introspection changes nothing and says what counts() says."""
        snapshot = self.scheduler.tree_snapshot()
        self.scheduler.plan_snapshot()
        assert sum(s.num_computed_tokens for s in snapshot.segments) <= snapshot.num_tokens

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
        if self.config.reserve == 1 and not counts.tally.num_forked:
            assert counts.preempted_samples == 0

    @invariant()
    def modules_lie_as_encoded_alone(self):
        """Slot by slot, whatever came before and was evicted; with overlap, once all is read."""
        if hasattr(self, "scheduler") and self.overlapped is None:
            self._assert_modules()

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        if self.overlapped is not None:
            updates = self.overlapped.run_until_idle()
        else:
            _, updates = run_until_idle(self.scheduler, self.device)
        self._forget_expired()
        for update in updates:
            self._fold_back(update, may_ask_usage=False)
        assert not self.alive
        self._assert_modules()
        counts = self.scheduler.counts()
        assert counts.used_pages == counts.cached_pages
        self.scheduler.clear_cache()
        self.scheduler.check()
        assert self.scheduler.counts().used_pages == 0

    def _step_overlapped(self, overlapped, seconds):
        now = self.now
        updates = overlapped.step()
        self.now += seconds
        self._fold_all(updates)
        self._forget_expired(now)

    def _fail_overlapped(self, overlapped, what):
        num_steps, failed = len(overlapped.steps), []
        if what != "read":
            updates, failed = overlapped.fail_to_launch(reads_first=what == "launch and then read")
            self._fold_all(updates)
        elif overlapped.flying is not None:
            failed = overlapped.fail_to_read()
        self._forget_expired(self.now if len(overlapped.steps) > num_steps else -np.inf)
        for request_id in failed:
            self._assert_usage(request_id)
            del self.alive[request_id]

    def _fold_all(self, updates):
        for update in updates:
            self._fold_back(update, may_ask_usage=False)

    def _assert_modules(self):
        tree, _ = self.scheduler.insides()
        for segment in tree.segments():
            if segment.is_module and not segment.is_pending:
                alone = contents_of(segment.tokens.tolist(), segment.layout.positions.tolist())
                assert [self.device.slots[s].content for s in segment.slots.tolist()] == alone

    def _add(self, prompt, **options):
        each = request(f"r{len(self.requests)}", prompt, **options)
        if refused(lambda: self.scheduler.add(each), "modules") is None:
            if each.prompt_logprobs is not None:
                self.device.asked[each.request_id] = len(each.prompt)
            self._expect(each)

    def _expect(self, each):
        self.requests[each.request_id] = each
        samples = range(each.num_samples)
        outputs = {i: list(run_alone(each, i, ALPHABET)) for i in samples}
        self.alive[each.request_id] = outputs
        self.drawn.update({(each.request_id, i): [] for i in samples})
        self.outputs.append((*each.prompt.tolist(), *outputs[0]))

    def _fold_back(self, update: Update, *, may_ask_usage: bool = True):
        left = self.alive[update.request_id][update.sample_index]
        if update.request_id in self.device.asked:
            assert_scored(self.device, self.requests[update.request_id])
        assert update.token_id == left.pop(0)
        self.drawn[update.request_id, update.sample_index].append(update.token_id)
        assert (update.finish_reason is not None) == (not left)
        if may_ask_usage:
            self._assert_usage(update.request_id)
        if not left:
            del self.alive[update.request_id][update.sample_index]
            self._forget_if_done(update.request_id)

    def _forget_expired(self, now=None):
        now = self.now if now is None else now
        for request_id in self.scheduler.take_expired():
            assert self.requests[request_id].deadline <= self.now
            del self.alive[request_id]
        assert all((self.requests[r].deadline or np.inf) > now for r in self.alive)

    def _forget_if_done(self, request_id):
        if not self.alive[request_id]:
            del self.alive[request_id]

    def _assert_usage(self, request_id):
        usage = self.scheduler.usage(request_id)
        parts = (usage.cached_tokens, usage.shared_tokens, usage.computed_tokens)
        assert min(parts) >= 0
        each = self.requests[request_id]
        assert sum(parts) == len(each.prompt)
        assert usage.module_tokens == (each.modules.num_tokens if each.modules else 0)
        assert usage.prompt_tokens == sum(parts) + usage.module_tokens


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=200, stateful_step_count=50, suppress_health_check=list(HealthCheck)
)
