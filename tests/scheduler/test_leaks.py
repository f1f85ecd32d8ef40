"""Many requests through a small pool: at the end only the tree holds pages, then nothing does."""

from functools import partial

import numpy as np
import pytest
from kv_on_paper import refused, request

from treeserve.config import SchedulerConfig
from treeserve.scheduler.request import ScheduledFork
from treeserve.scheduler.scheduler import Scheduler

NUM_REQUESTS = 100_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_requests_leave_nothing_behind():
    random = np.random.default_rng(7)
    config = SchedulerConfig(
        num_pages=600, page_size=8, token_budget=256, max_running=64, reserve=0.1
    )
    now = 0.0
    scheduler = Scheduler(config, clock=lambda: now)
    trunks = random.integers(0, 50, (20, 40)).astype(np.int32)
    num_sent = num_forks = 0
    while num_sent < NUM_REQUESTS or scheduler.has_work():
        while num_sent < NUM_REQUESTS and scheduler.counts().waiting_requests < 40:
            trunk = trunks[random.integers(20)][: random.integers(1, 41)]
            prompt = [*trunk.tolist(), *random.integers(0, 50, random.integers(0, 4)).tolist()]
            deadline = now + 0.02 if random.random() < 0.02 else None
            namespace = "b" if random.random() < 0.2 else "a"
            scheduler.add(
                request(
                    f"r{num_sent}",
                    prompt,
                    n=1 + int(random.random() < 0.1),
                    max_tokens=int(random.integers(1, 4)),
                    namespace=namespace,
                    tenant=namespace,
                    deadline=deadline,
                )
            )
            num_sent += 1
        step = scheduler.schedule()
        scheduler.take_expired()
        if step is None:
            continue
        now += 0.01
        ended = scheduler.complete(step, random.integers(0, 50, len(step.draws)))
        if random.random() < 0.01:
            scheduler.abort(f"r{random.integers(max(0, num_sent - 200), num_sent)}")
        if ended and random.random() < 0.2:
            parent = ended[0]
            fork = ScheduledFork(f"f{num_forks}", parent.request_id, parent.sample_index, 1, 2, 2)
            num_forks += 1
            refused(partial(scheduler.fork, fork), "num_tokens", "parent")
        if step.number % 997 == 0:
            scheduler.check()
    scheduler.check()
    counts = scheduler.counts()
    assert counts.used_pages == counts.cached_pages
    assert counts.running_samples == counts.reserved_pages == counts.waiting_requests == 0
    assert counts.tally.num_forked > 100
    assert counts.tally.num_expired > 0
    scheduler.clear_cache()
    scheduler.check()
    assert scheduler.counts().used_pages == 0
