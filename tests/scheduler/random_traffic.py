"""Random traffic over one scheduler: trees, forks, tenants, deadlines, aborts, scarce memory."""

from dataclasses import replace

import numpy as np
from kv_on_paper import (
    PaperDevice,
    Update,
    assert_scored,
    complete,
    drawn,
    make_device,
    refused,
    request,
    run_alone,
    run_until_idle,
)
from overlapped import Overlapped

from treeserve.config import SchedulerConfig
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.request import ScheduledFork, ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.tree.prefix import Prefix

COST_MODELS = [
    CostModel(token_cost=1, state_cost=0, item_cost=0),
    CostModel(token_cost=1, state_cost=2, item_cost=8),
    CostModel(token_cost=1, state_cost=2, item_cost=0, sharing_cost=60),
    CostModel(token_cost=1, state_cost=1, item_cost=4, max_item_tokens=7),
]
MAX_CONTEXT = 90


class Traffic:
    """Random trees of prompts, sent to one scheduler in bursts, and whatever may go wrong.

    overlap: Whether each step is decided before the one before is read; then steps fail, too.
    """

    def __init__(self, seed: int, *, check: bool, overlap: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.check = check
        self.now = 0.0
        self.alphabet = int(self.random.choice([2, 3, 5]))
        page_size = int(self.random.choice([1, 4, 16]))
        num_slots = int(self.random.choice([128, 160, 320, 2000]))
        self.config = SchedulerConfig(
            num_pages=num_slots // page_size,
            page_size=page_size,
            token_budget=int(self.random.choice([7, 24, 200])),
            max_running=int(self.random.choice([2, 9, 64])),
            kept_logits=int(self.random.choice([1, 3, 32])),
            sharing=("on", "always", "on", "off")[seed % 4],
            policy=("tree", "tree", "fcfs", "priority", "longest-prefix")[seed % 5],
            reserve=float(self.random.choice([0.0, 0.25, 1.0])),
            retained_fraction=0.3,
            tenant_weights={"b": 2.0},
        )
        self.scheduler = Scheduler(self.config, COST_MODELS[seed // 4 % 4], clock=lambda: self.now)
        self.device: PaperDevice = make_device(self.config, self.alphabet)
        self.overlapped = Overlapped(self.scheduler, self.device, self._done) if overlap else None
        self.requests: dict[str, ScheduledRequest] = {}
        self.updates: list[Update] = []
        self.cut_short: set[str] = set()
        self.num_trees = self.num_steps = self.num_operations = self.num_failed = 0

    def run(self, num_trees: int) -> None:
        while self.num_trees < num_trees:
            self.send_tree()
            for _ in range(self.random.integers(1, 16)):
                self.step()
                self.disturb()
        if self.overlapped is not None:
            while self.overlapped.has_work:
                self.step()
            return
        steps, updates = run_until_idle(self.scheduler, self.device, check=self.check)
        self._note_expired()
        self.num_steps += len(steps)
        self.num_operations += 2 * len(steps)
        self.updates += updates

    def send_tree(self) -> None:
        """Prompts that branch from a trunk, or from what an earlier request drew."""
        self.num_trees += 1
        tenant = str(self.random.choice(["a", "a", "b"]))
        prompts = [self._trunk()]
        for _ in range(self.random.integers(0, 6)):
            parent = prompts[self.random.integers(len(prompts))]
            prompts.append([*parent, *self._tokens(self.random.integers(0, 12))])
        num_public = int(self.random.choice([0, 0, len(prompts[0]) // 2, 70]))
        for prompt in prompts:
            each = request(
                f"r{len(self.requests)}",
                prompt[:70],
                n=int(self.random.integers(1, 5)),
                max_tokens=int(self.random.choice([1, 3, 9, 15, 40])),
                stop=[0] if self.random.random() < 0.3 else [],
                namespace=tenant,
                num_public_tokens=min(num_public, len(prompt[:70])),
                tenant=tenant,
                priority=int(self.random.integers(-1, 3)),
                prompt_logprobs=0 if self.random.random() < 0.2 else None,
                deadline=self.now + 2 if self.random.random() < 0.05 else None,
            )
            self.scheduler.add(each)
            self.requests[each.request_id] = each
            if each.prompt_logprobs is not None:
                self.device.asked[each.request_id] = len(each.prompt)
            self._done()

    def fork(self) -> None:
        """Branches any sample, alive or not, at any of its tokens."""
        outputs = drawn(self.updates[-300:])
        if not outputs:
            return
        keys = sorted(outputs)
        parent_id, index = keys[self.random.integers(len(keys))]
        parent = self.requests[parent_id]
        tokens = drawn([u for u in self.updates if u.request_id == parent_id])[parent_id, index]
        num_tokens = int(self.random.integers(0, len(tokens) + 1))
        prompt = [*parent.prompt.tolist(), *tokens[:num_tokens]]
        if len(prompt) > MAX_CONTEXT:
            return
        child = replace(
            request(f"r{len(self.requests)}", prompt, n=2, max_tokens=6),
            namespace=parent.namespace,
            num_public_tokens=parent.num_public_tokens,
        )
        fork = ScheduledFork(child.request_id, parent_id, index, num_tokens, 2, 6)
        if refused(lambda: self.scheduler.fork(fork), "parent"):
            return
        self.requests[child.request_id] = child

    def step(self) -> None:
        if self.overlapped is not None:
            self._overlapped_step(self.overlapped)
            return
        step = self.scheduler.schedule()
        self._note_expired()
        if step is None:
            return
        self._done()
        self.num_steps += 1
        assert step.num_rows <= self.config.token_budget
        tokens = self.device.run(step)
        self.now += 0.1
        self.updates += complete(self.scheduler, step, tokens)
        self._done()

    def _overlapped_step(self, overlapped: Overlapped) -> None:
        self.num_steps += 1
        self.now += 0.1
        what = self.random.random()
        failed: list[str] = []
        if what < 0.01 and overlapped.flying is not None:
            failed = overlapped.fail_to_read()
        elif what < 0.02:
            updates, failed = overlapped.fail_to_launch(reads_first=what < 0.015)
            self.updates += updates
        else:
            self.updates += overlapped.step()
        self.cut_short.update(failed)
        self.num_failed += bool(failed)
        self._note_expired()

    def disturb(self) -> None:
        what = self.random.random()
        if what < 0.08:
            victim = f"r{self.random.integers(len(self.requests))}"
            self.cut_short.add(victim)
            index = None if self.random.random() < 0.5 else int(self.random.integers(0, 5))
            self.scheduler.abort(victim, index)
        elif what < 0.11:
            self.scheduler.clear_cache()
        elif what < 0.25:
            self.fork()
        elif what < 0.30:
            self.retain()
        else:
            return
        self._done()

    def retain(self) -> None:
        each = self.requests[f"r{self.random.integers(len(self.requests))}"]
        prefix = Prefix(each.prompt, each.namespace, each.num_public_tokens)
        weight = float(self.random.random()) + 0.1
        refused(lambda: self.scheduler.retain(prefix, weight, 3.0), "prefix")
        retained = self.scheduler.retained()
        if retained and self.random.random() < 0.3:
            self.scheduler.release_retained(retained[0].retained_id)

    def assert_as_alone(self) -> None:
        """Every sample drew what it would have drawn alone, as far as it was let."""
        outputs = drawn(self.updates)
        for request_id, each in self.requests.items():
            was_drawn = any((request_id, index) in outputs for index in range(each.num_samples))
            if each.prompt_logprobs is not None and was_drawn:
                assert_scored(self.device, each)
            for index in range(each.num_samples):
                alone = run_alone(each, index, self.alphabet)
                got = outputs.get((request_id, index), ())
                if request_id in self.cut_short:
                    assert got == alone[: len(got)]
                else:
                    assert got == alone

    def _note_expired(self) -> None:
        for request_id in self.scheduler.take_expired():
            self.cut_short.add(request_id)

    def _done(self) -> None:
        self.num_operations += 1
        if self.check:
            self.scheduler.check()

    def _trunk(self) -> list[int]:
        outputs = drawn(self.updates[-200:])
        if not outputs or self.random.random() < 0.5:
            return self._tokens(self.random.integers(1, 50))
        keys = sorted(outputs)
        request_id, index = keys[self.random.integers(len(keys))]
        return [*self.requests[request_id].prompt.tolist(), *outputs[request_id, index]][:60]

    def _tokens(self, length: int) -> list[int]:
        return self.random.integers(0, self.alphabet, length).tolist()
