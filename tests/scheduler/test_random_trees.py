"""KV on paper: every row sees its own context and nothing else, whatever the trees are."""

import numpy as np
import pytest
from kv_on_paper import make_device, request, run_until_idle
from random_traffic import Traffic

from treeserve.config import SchedulerConfig
from treeserve.scheduler.scheduler import Scheduler

NUM_SEEDS = 60
NUM_CHECKED_SEEDS = 25
MIN_TREES, MIN_STEPS = 500, 5000
MIN_CHECKED_OPERATIONS = 500
"""Of each checked seed: all of them together are tens of thousands."""


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("seed", range(NUM_CHECKED_SEEDS))
def test_every_sample_is_what_it_would_be_alone_and_the_books_always_balance(
    seed, overlap, record_property
):
    traffic = Traffic(seed, check=True, overlap=overlap)
    while traffic.num_operations < MIN_CHECKED_OPERATIONS:
        traffic.run(traffic.num_trees + 4)
    record_property("checked_operations", traffic.num_operations)
    traffic.assert_as_alone()
    counts = traffic.scheduler.counts()
    assert counts.used_pages == counts.cached_pages, "only the tree holds pages"
    traffic.scheduler.clear_cache()
    traffic.scheduler.check()
    assert traffic.scheduler.counts().used_pages == 0


def test_the_random_trees_are_many_and_visit_what_is_rare(record_property):
    runs = [Traffic(1000 + seed, check=False) for seed in range(NUM_SEEDS)]
    for run in runs:
        run.run(num_trees=9)
        run.assert_as_alone()
    num_trees, num_steps = sum(r.num_trees for r in runs), sum(r.num_steps for r in runs)
    counts = [run.scheduler.counts() for run in runs]
    record_property("random_trees", num_trees)
    record_property("steps", num_steps)
    print(f"{num_trees} random trees, {num_steps} steps")
    assert num_trees >= MIN_TREES
    assert num_steps >= MIN_STEPS
    assert sum(bool(r.cut_short) for r in runs) > 10
    assert sum(c.num_evicted_tokens > 0 for c in counts) > 10
    assert sum(c.preempted_samples for c in counts) > 100
    assert sum(c.tally.num_forked for c in counts) > 100
    assert sum(c.tally.num_expired for c in counts) > 10


def test_overlapped_steps_visit_what_is_rare_and_every_sample_is_what_it_would_be_alone():
    runs = [Traffic(2000 + seed, check=False, overlap=True) for seed in range(NUM_SEEDS)]
    for run in runs:
        run.run(num_trees=9)
        run.assert_as_alone()
        counts = run.scheduler.counts()
        assert counts.used_pages == counts.cached_pages, "only the tree holds pages"
    counts = [run.scheduler.counts() for run in runs]
    assert sum(r.overlapped.num_lost for r in runs) > 100
    assert sum(r.overlapped.num_settled for r in runs) > 100
    assert sum(r.num_failed for r in runs) > 50
    assert sum(c.preempted_samples for c in counts) > 50
    assert sum(c.tally.num_forked for c in counts) > 100
    assert sum(c.tally.num_expired for c in counts) > 10
    steps = [step for run in runs for step in run.overlapped.steps]
    assert sum((step.token_ids < 0).any() for step in steps) > len(steps) // 2


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
    assert scheduler.counts().num_evicted_tokens == 0
    assert len(set(device.stored_prompts)) == len(device.stored_prompts) > 100
