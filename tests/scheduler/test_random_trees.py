"""KV on paper: every row sees its own context and nothing else, whatever the trees are."""

import numpy as np
import pytest
from kv_on_paper import PaperDevice, drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.scheduler.cost import CostModel
from treeserve.scheduler.request import SampleUpdate, ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler

NUM_SEEDS = 60
NUM_CHECKED_SEEDS = 32
MIN_TREES, MIN_STEPS = 500, 5000
COST_MODELS = [
    CostModel(token_cost=1, state_cost=0, item_cost=0),
    CostModel(token_cost=1, state_cost=2, item_cost=8),
    CostModel(token_cost=1, state_cost=1, item_cost=4, max_item_tokens=7),
]


class Traffic:
    """Random trees of prompts, sent to one scheduler in bursts, with aborts and cleared caches."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.alphabet = int(self.random.choice([2, 3, 5]))
        page_size = int(self.random.choice([1, 4, 16]))
        num_slots = int(self.random.choice([160, 320, 2000]))
        self.config = SchedulerConfig(
            num_pages=num_slots // page_size,
            page_size=page_size,
            token_budget=int(self.random.choice([7, 24, 200])),
            max_running=int(self.random.choice([2, 9, 64])),
            kept_logits=int(self.random.choice([1, 3, 32])),
            sharing=("on", "always", "on", "off")[seed % 4],
        )
        self.scheduler = Scheduler(self.config, COST_MODELS[seed % 3])
        self.requests: dict[str, ScheduledRequest] = {}
        self.updates: list[SampleUpdate] = []
        self.aborted: set[str] = set()
        self.num_trees = 0
        self.num_steps = 0

    def send_tree(self) -> None:
        """Prompts that branch from a trunk, or from what an earlier request drew."""
        self.num_trees += 1
        namespace = str(self.random.choice(["", "", "other"]))
        prompts = [self._trunk()]
        for _ in range(self.random.integers(0, 6)):
            parent = prompts[self.random.integers(len(prompts))]
            prompts.append([*parent, *self._tokens(self.random.integers(0, 12))])
        for prompt in prompts:
            each = request(
                f"r{len(self.requests)}",
                prompt[:70],
                n=int(self.random.integers(1, 5)),
                max_tokens=int(self.random.integers(1, 16)),
                stop=[0] if self.random.random() < 0.3 else [],
                namespace=namespace,
            )
            self.requests[each.request_id] = each
            self.scheduler.add(each)

    def step(self, device: PaperDevice, *, check: bool) -> None:
        step = self.scheduler.schedule()
        if step is None:
            return
        if check:
            self.scheduler.check()
        self.num_steps += 1
        assert step.num_rows <= self.config.token_budget
        self.updates += self.scheduler.complete(step, device.run(step))
        if check:
            self.scheduler.check()

    def disturb(self) -> None:
        if self.random.random() < 0.08:
            victim = f"r{self.random.integers(len(self.requests))}"
            self.aborted.add(victim)
            index = None if self.random.random() < 0.5 else int(self.random.integers(0, 5))
            self.scheduler.abort(victim, index)
        if self.random.random() < 0.03:
            self.scheduler.clear_cache()

    def _trunk(self) -> list[int]:
        outputs = drawn(self.updates[-200:])
        if not outputs or self.random.random() < 0.5:
            return self._tokens(self.random.integers(1, 50))
        keys = sorted(outputs)
        request_id, index = keys[self.random.integers(len(keys))]
        return [*self.requests[request_id].prompt.tolist(), *outputs[request_id, index]][:60]

    def _tokens(self, length: int) -> list[int]:
        return self.random.integers(0, self.alphabet, length).tolist()


def run_traffic(seed: int, *, num_trees: int = 9, check: bool = True) -> Traffic:
    traffic = Traffic(seed)
    device = make_device(traffic.config, traffic.alphabet)
    while traffic.num_trees < num_trees:
        traffic.send_tree()
        for _ in range(traffic.random.integers(1, 16)):
            traffic.step(device, check=check)
            traffic.disturb()
    steps, updates = run_until_idle(traffic.scheduler, device, check=check)
    traffic.num_steps += len(steps)
    traffic.updates += updates
    return traffic


def assert_as_alone(traffic: Traffic) -> None:
    outputs = drawn(traffic.updates)
    for request_id, each in traffic.requests.items():
        for index in range(each.num_samples):
            alone = run_alone(each, index, traffic.alphabet)
            got = outputs.get((request_id, index), ())
            if request_id in traffic.aborted:
                assert got == alone[: len(got)]
            else:
                assert got == alone


@pytest.mark.parametrize("seed", range(NUM_CHECKED_SEEDS))
def test_every_sample_is_what_it_would_be_alone(seed):
    traffic = run_traffic(seed)
    assert_as_alone(traffic)
    counts = traffic.scheduler.counts()
    assert counts.used_pages == counts.cached_pages, "only the tree holds pages"
    traffic.scheduler.clear_cache()
    traffic.scheduler.check()
    assert traffic.scheduler.counts().used_pages == 0


def test_the_random_trees_are_many_and_visit_what_is_rare(record_property):
    runs = [run_traffic(1000 + seed, check=False) for seed in range(NUM_SEEDS)]
    num_trees, num_steps = sum(r.num_trees for r in runs), sum(r.num_steps for r in runs)
    record_property("random_trees", num_trees)
    record_property("steps", num_steps)
    print(f"{num_trees} random trees, {num_steps} steps")
    for run in runs:
        assert_as_alone(run)
    assert num_trees >= MIN_TREES
    assert num_steps >= MIN_STEPS
    assert sum(bool(r.aborted) for r in runs) > 10
    assert sum(r.scheduler.counts().evicted_tokens > 0 for r in runs) > 10


@pytest.mark.parametrize("seed", range(4))
def test_a_token_that_stays_cached_is_computed_once(seed):
    config = SchedulerConfig(num_pages=2000, page_size=4, token_budget=16, max_running=8)
    scheduler, device = Scheduler(config), make_device(config, 2)
    random = np.random.default_rng(seed)
    for i in range(40):
        prompt = random.integers(0, 2, random.integers(1, 30)).tolist()
        scheduler.add(request(f"r{i}", prompt, n=3, max_tokens=4))
        for _ in range(random.integers(0, 4)):
            step = scheduler.schedule()
            if step is not None:
                scheduler.complete(step, device.run(step))
        scheduler.abort(f"r{random.integers(40)}")
    run_until_idle(scheduler, device)
    assert scheduler.counts().evicted_tokens == 0
    assert len(set(device.stored_prompts)) == len(device.stored_prompts) > 100
