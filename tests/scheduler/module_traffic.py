"""Random traffic of prompts that import modules, beside plain ones, in scarce memory."""

from collections.abc import Sequence

import numpy as np
from kv_on_paper import (
    Update,
    complete,
    contents_of,
    drawn,
    make_device,
    refused,
    request,
    run_alone,
)
from overlapped import Overlapped
from random_traffic import COST_MODELS

from treeserve.config import SchedulerConfig
from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.request import ScheduledFork, ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler


def module(key: str, tokens: Sequence[int], start: int = 0, step: int = 1) -> Module:
    positions = np.arange(start, start + step * len(tokens), step, dtype=np.int32)
    return Module(key, np.array(tokens, dtype=np.int32), positions)


def module_set(
    modules: Sequence[Module], arguments: Sequence[int] = (), base: int | None = None
) -> ModuleSet:
    ends = [int(each.positions[-1]) + 1 for each in modules]
    return ModuleSet(
        tuple(modules), np.array(arguments, dtype=np.int32), max(ends) if base is None else base
    )


class ModuleTraffic:
    """Prompts of one schema: any of its modules, arguments, and own text; some are plain."""

    def __init__(self, seed: int, *, overlap: bool, check: bool = True) -> None:
        self.random = np.random.default_rng(seed)
        self.check = check
        self.now = 0.0
        self.alphabet = int(self.random.choice([2, 4]))
        page_size = int(self.random.choice([1, 4, 16]))
        num_slots = int(self.random.choice([112, 144, 208, 2000]))
        self.config = SchedulerConfig(
            num_pages=num_slots // page_size,
            page_size=page_size,
            token_budget=int(self.random.choice([7, 24, 200])),
            max_running=int(self.random.choice([2, 7, 64])),
            kept_logits=int(self.random.choice([1, 3, 32])),
            sharing=("on", "always", "on", "off")[seed % 4],
            policy=("tree", "fcfs", "priority", "longest-prefix")[seed // 2 % 4],
            reserve=float(self.random.choice([0.0, 0.25, 1.0])),
        )
        costs = COST_MODELS[seed // 3 % 4]
        self.scheduler = Scheduler(self.config, costs, clock=lambda: self.now)
        self.device = make_device(self.config, self.alphabet)
        self.overlapped = None
        if overlap:
            self.overlapped = Overlapped(self.scheduler, self.device, self._done)
        self.modules = self._schema()
        self.requests: dict[str, ScheduledRequest] = {}
        self.updates: list[Update] = []
        self.cut_short: set[str] = set()
        self.num_steps = self.num_encoding = self.num_failed = self.num_grouped = 0
        self.num_refused = self.num_found = 0

    def run(self, num_requests: int) -> None:
        while len(self.requests) < num_requests:
            for _ in range(self.random.integers(1, 6)):
                self.send()
            for _ in range(self.random.integers(1, 12)):
                self.step()
                self.disturb()
        while self.scheduler.has_work() or (self.overlapped and self.overlapped.has_work):
            self.step()
            assert self.num_steps < 50_000, "nothing ends any more"

    def send(self) -> None:
        num_imported = int(self.random.choice([0, 1, 1, 2, 3]))
        picks = np.sort(self.random.choice(len(self.modules), num_imported, replace=False))
        own = self.random.integers(0, self.alphabet, self.random.integers(1, 20)).tolist()
        modules = None
        if num_imported:
            num_arguments = int(self.random.integers(0, min(3, len(own) + 1)))
            base = int(self.random.choice([90, 90, 120]))
            modules = module_set(
                [self.modules[pick] for pick in picks], range(40, 40 + num_arguments), base
            )
        each = request(
            f"r{len(self.requests)}",
            own,
            n=int(self.random.integers(1, 5)),
            max_tokens=int(self.random.choice([1, 5, 15, 40])),
            namespace=str(self.random.choice(["a", "a", "b"])),
            priority=int(self.random.integers(-1, 2)),
            deadline=self.now + 2 if self.random.random() < 0.05 else None,
            modules=modules,
        )
        if refused(lambda: self.scheduler.add(each), "modules"):
            self.num_refused += 1
            return
        self.requests[each.request_id] = each
        self._done()

    def step(self) -> None:
        self.num_steps += 1
        self.now += 0.1
        if self.overlapped is not None:
            self._overlapped_step(self.overlapped)
        else:
            self._plain_step()
        self.cut_short.update(self.scheduler.take_expired())

    def disturb(self) -> None:
        what = self.random.random()
        victim = f"r{self.random.integers(len(self.requests))}" if self.requests else "nobody"
        if what < 0.05:
            self.cut_short.add(victim)
            self.scheduler.abort(victim)
        elif what < 0.08:
            self.scheduler.clear_cache()
        elif what < 0.16:
            self.fork()
        else:
            return
        self._done()

    def fork(self) -> None:
        outputs = drawn(self.updates[-200:])
        if not outputs:
            return
        keys = sorted(outputs)
        parent_id, index = keys[self.random.integers(len(keys))]
        parent = self.requests[parent_id]
        tokens = drawn([u for u in self.updates if u.request_id == parent_id])[parent_id, index]
        num_tokens = int(self.random.integers(0, len(tokens) + 1))
        prompt = [*parent.prompt.tolist(), *tokens[:num_tokens]]
        if len(prompt) > 40:
            return
        child = request(
            f"r{len(self.requests)}",
            prompt,
            n=2,
            max_tokens=5,
            namespace=parent.namespace,
            modules=parent.modules,
        )
        fork = ScheduledFork(child.request_id, parent_id, index, num_tokens, 2, 5)
        if refused(lambda: self.scheduler.fork(fork), "parent", "modules"):
            return
        self.requests[child.request_id] = child

    def assert_as_alone(self) -> None:
        outputs = drawn(self.updates)
        for request_id, each in self.requests.items():
            for index in range(each.num_samples):
                alone = run_alone(each, index, self.alphabet)
                got = outputs.get((request_id, index), ())
                if request_id in self.cut_short:
                    assert got == alone[: len(got)]
                else:
                    assert got == alone

    def assert_modules_are_encoded_alone(self) -> None:
        """What lies in the slots of every module, token by token."""
        for segment in self.scheduler._tree.segments():
            if segment.is_module and not segment.is_pending:
                alone = contents_of(segment.tokens.tolist(), segment.layout.positions.tolist())
                stored = [self.device.slots[slot] for slot in segment.slots.tolist()]
                assert [each.content for each in stored] == alone
                self.num_found += 1

    def _plain_step(self) -> None:
        step = self.scheduler.schedule()
        if step is None:
            return
        self._done()
        self._note(step)
        if self.random.random() < 0.005:
            self.device.run(step)
            self.device.spoil(step)
            failed = self.scheduler.fail(step)
            self.cut_short.update(failed)
            self.num_failed += bool(failed)
            self._done()
            return
        self.updates += complete(self.scheduler, step, self.device.run(step))
        self._done()
        self.assert_modules_are_encoded_alone()

    def _overlapped_step(self, overlapped: Overlapped) -> None:
        what, failed = self.random.random(), []
        num_before = len(overlapped.steps)
        if what < 0.005 and overlapped.flying is not None:
            failed = overlapped.fail_to_read()
        elif what < 0.01:
            updates, failed = overlapped.fail_to_launch(reads_first=what < 0.0075)
            self.updates += updates
        else:
            self.updates += overlapped.step()
        for step in overlapped.steps[num_before:]:
            self._note(step)
        self.cut_short.update(failed)
        self.num_failed += bool(failed)

    def _note(self, step) -> None:
        is_encoding = step.num_rows > 0 and not len(step.draws) and len(step.logits_rows) == 0
        self.num_encoding += is_encoding and step.maybe_model_positions is not None
        self.num_grouped += step.plan.counts.num_module_items > 0

    def _schema(self) -> list[Module]:
        modules = []
        for index in range(5):
            length = int(self.random.choice([1, 8, 8, 8, 19, 28]))
            tokens = self.random.integers(0, self.alphabet, length).tolist()
            modules.append(module(f"m{index}", tokens, int(self.random.integers(0, 40))))
        return modules

    def _done(self) -> None:
        if self.check:
            self.scheduler.check()
