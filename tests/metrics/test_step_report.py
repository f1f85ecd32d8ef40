"""What a real scheduler counts arrives in the metrics, once."""

import numpy as np
import pytest

from treeserve.config import SchedulerConfig
from treeserve.metrics import Metrics
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.step_report import StepReport

TRUNK = list(range(1, 65))


class Watched:
    """A scheduler whose tokens come from nowhere, and the metrics of its steps."""

    def __init__(self, costs: CostModel | None = None, **config: object) -> None:
        given = {"num_pages": 64, "page_size": 4, "token_budget": 128, "max_running": 16} | config
        self.scheduler = Scheduler(SchedulerConfig(**given), costs)
        self.report = StepReport()
        self.metrics = Metrics()

    def add(self, name: str, prompt: list[int], n: int = 1, max_tokens: int = 8, **more) -> None:
        ids = np.array(prompt, dtype=np.int32)
        request = ScheduledRequest(
            request_id=name, prompt=ids, num_samples=n, max_tokens=max_tokens, **more
        )
        self.scheduler.add(request)

    def run(self, num_steps: int = 1000) -> None:
        for _ in range(num_steps):
            step = self.scheduler.schedule()
            if step is None:
                break
            self.scheduler.complete(step, [7] * len(step.draws))
            counts = self.scheduler.counts()
            self.metrics.observe_step(self.report.after(step, counts, len(step.draws), 0.01))

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"treeserve_{name}", labels)
        assert found is not None, name
        return found


def test_samples_under_one_prompt_are_rows_of_one_node():
    watched = Watched(sharing="always")
    watched.add("a", TRUNK, n=6)
    watched.run()
    num_shared = watched.value("steps_total", sharing="shared")
    assert num_shared > 0
    assert watched.value("node_rows_count") == num_shared
    assert watched.value("node_rows_sum") == 6 * num_shared
    assert watched.value("node_rows_bucket", le="4.0") == 0
    assert watched.value("node_rows_bucket", le="8.0") == num_shared
    assert watched.value("step_depth_bucket", le="1.0") < watched.value("step_depth_count")
    assert watched.value("plans_total", origin="reused") > 0


def test_steps_of_one_sample_have_nothing_in_common():
    watched = Watched()
    watched.add("a", TRUNK)
    watched.run()
    steps = watched.value("steps_total", sharing="nothing_in_common")
    assert steps == watched.value("step_seconds_count") == 8


@pytest.mark.parametrize(
    ("costs", "reason"),
    [
        (CostModel(item_cost=1e9), "too_small"),
        (CostModel(token_cost=1.0, item_cost=0.0, state_cost=0.0, sharing_cost=1e9), "outweighed"),
    ],
)
def test_what_is_not_shared_has_a_reason(costs, reason):
    watched = Watched(costs)
    watched.add("a", TRUNK, n=4)
    watched.run()
    assert watched.value("steps_total", sharing="shared") == 0
    assert watched.value("steps_total", sharing=reason) > 0
    folded = {r: watched.value("folded_segments_total", reason=r) for r in REASONS}
    assert folded[reason] > 0
    assert sum(folded.values()) == folded[reason]


REASONS = ("too_small", "outweighed")


def test_evictions_are_counted_by_what_they_were_for():
    watched = Watched(num_pages=32)
    for number in range(4):
        watched.add(f"{number}", [number + 1, *TRUNK])
        watched.run()
    room = watched.value("evicted_tokens_total", reason="room")
    assert room > 0
    assert watched.value("evicted_tokens_total", reason="clear") == 0
    num_cleared = watched.scheduler.clear_cache()
    watched.add("last", [99])
    watched.run()
    assert watched.value("evicted_tokens_total", reason="clear") == num_cleared > 0
    assert watched.value("evicted_tokens_total", reason="room") == room


def test_preempted_samples_and_what_they_cost_are_counted():
    watched = Watched(num_pages=12, reserve=0.0)
    watched.add("a", [1, 2, 3], max_tokens=30)
    watched.add("b", [4, 5, 6], max_tokens=30)
    watched.run()
    preempted = watched.scheduler.counts().preempted_samples
    assert watched.value("preempted_samples_total") == preempted > 0
    recomputed = watched.scheduler.counts().tally.recomputed_tokens
    assert watched.value("recomputed_tokens_total") == recomputed


def test_requests_that_their_deadline_ended_are_counted():
    watched = Watched()
    watched.add("late", TRUNK, deadline=0.0)
    watched.add("b", TRUNK)
    watched.run()
    assert watched.value("expired_requests_total") == 1


def test_gauges_are_those_of_the_last_step():
    watched = Watched(max_running=2)
    watched.add("a", TRUNK, n=2, max_tokens=20)
    watched.add("b", [9, 8, 7])
    watched.run(3)
    assert watched.value("running_samples") == 2
    counts = watched.scheduler.counts()
    assert watched.value("waiting_requests") == counts.waiting_requests
    assert watched.value("startable_requests") == counts.startable_requests
    assert counts.waiting_requests + counts.startable_requests > 0
    assert watched.value("pages_capacity") == 64
    assert 0 < watched.value("pages_used") <= 64
    watched.run()
    assert watched.value("running_samples") == 0
    assert watched.value("pages_used") == watched.value("pages_cached")


def test_numbers_that_are_asked_for_twice_are_told_once():
    report = StepReport()
    report.num_failed_steps = 2
    counts = Watched().scheduler.counts()
    assert report.between_steps(counts).failed_steps == 2
    assert report.between_steps(counts).failed_steps == 0
