"""Nobody starves: adversaries against the bound that the queue promises."""

import pytest
from queue_house import QueueHouse, run_of

from treeserve.scheduler.queue.policy import QueueTuning

SLACK = 500
MAX_RUNNING = 4
PER_PASS = 5
TUNING = QueueTuning(
    output_share_tokens=10, overtaking_slack_tokens=SLACK, overtaking_share=0.0, backfill=3
)


class Adversary:
    """Before every pass more requests of one kind come than can run; the oldest of those ends."""

    def __init__(self, house: QueueHouse, tokens, **fields) -> None:
        self.house = house
        self.tokens = tokens
        self.fields = fields
        self.num_passes = 0

    def run_until(self, victim: str, *, max_passes: int, seconds_per_pass=0.0) -> int:
        """Steps until the victim is admitted; the most work that had gone past it."""
        most = 0
        while victim in self.house.queue:
            assert self.num_passes < max_passes, "it starves"
            most = max(most, self.house.queue.num_overtaken(victim))
            self.step(seconds_per_pass)
        return most

    def step(self, seconds_per_pass=0.0) -> None:
        now = self.num_passes * seconds_per_pass
        for i in range(PER_PASS):
            own = 100_000 + self.num_passes * PER_PASS + i
            self.house.push([*self.tokens, own], at=now, **self.fields)
        self.num_passes += 1
        if self.house.leaves:
            self.house.end(next(iter(self.house.leaves)))
        for request in self.house.queue.candidates(now):
            self.house.admit(request)
            if len(self.house.leaves) == MAX_RUNNING:
                break
        self.house.check()


def test_cheap_siblings_without_end_pass_a_large_request_by_the_slack_at_most():
    """Time stands still, so that no wait helps the large one."""
    house = QueueHouse("tree", tuning=TUNING)
    house.cache(run_of(1, 40))
    large = house.push(run_of(2, 900))
    most = Adversary(house, run_of(1, 40)).run_until(large, max_passes=100)
    assert SLACK <= most < SLACK + 11


def test_backfill_gives_way_to_a_request_that_never_fits_beside_the_others():
    """It needs the whole pool, and small ones keep it occupied."""
    house = QueueHouse("tree", tuning=TUNING, num_pages=64)
    large = house.push(run_of(2, 63 * 4))
    most = Adversary(house, run_of(1, 4)).run_until(large, max_passes=100)
    assert SLACK <= most < SLACK + 15


def test_another_tenants_backfill_counts_too():
    house = QueueHouse("tree", tuning=TUNING, num_pages=64)
    adversary = Adversary(house, run_of(1, 4), tenant="b")
    adversary.step()
    large = house.push(run_of(2, 63 * 4), tenant="a")
    most = adversary.run_until(large, max_passes=100)
    assert SLACK <= most < SLACK + 15


@pytest.mark.parametrize("policy", ["tree", "fcfs"])
def test_high_priority_without_end_is_ahead_for_its_seconds_only(policy):
    house = QueueHouse(policy, tuning=TUNING)
    low = house.push(run_of(2, 40), at=0.0)
    adversary = Adversary(house, run_of(1, 40), priority=1)
    adversary.run_until(low, max_passes=100, seconds_per_pass=1.0)
    assert 10 < adversary.num_passes <= 10 * PER_PASS + (SLACK + 11) / 11


def test_deadlines_without_end_pass_others_by_the_slack_at_most():
    house = QueueHouse("fcfs", tuning=TUNING)
    house.queue.pace = 0.001
    none = house.push(run_of(2, 40))
    adversary = Adversary(house, run_of(1, 40), deadline=0.5)
    most = adversary.run_until(none, max_passes=100, seconds_per_pass=0.001)
    assert SLACK <= most < SLACK + 51


def test_everybody_is_overtaken_within_the_bound_of_the_first():
    """A whole backlog of large requests against small ones that are always cheaper."""
    tuning = QueueTuning(
        output_share_tokens=10, overtaking_slack_tokens=SLACK, overtaking_share=0.5, backfill=3
    )
    house = QueueHouse("tree", tuning=tuning)
    house.cache(run_of(1, 40))
    backlog = [house.push(run_of(i, 300)) for i in range(2, 12)]
    adversary = Adversary(house, run_of(1, 40))
    for index, victim in enumerate(backlog):
        waited_for = index * 310
        most = adversary.run_until(victim, max_passes=1000)
        assert most < SLACK + 0.5 * waited_for + 310


def test_a_flood_from_one_tenant_leaves_others_their_turn():
    house = QueueHouse("tree", weights={"flood": 1.0})
    for i in range(200):
        house.push([*run_of(1, 40), i], tenant="flood")
    for _ in range(50):
        house.queue.charge("flood", 41)
        assert house.next() is not None
    other = house.push(run_of(2, 40), tenant="other")
    assert other in [house.next(), house.next()]


def test_longest_prefix_starves_as_documented():
    house = QueueHouse("longest-prefix", tuning=TUNING)
    house.cache(run_of(1, 40))
    large = house.push(run_of(2, 900))
    with pytest.raises(AssertionError, match="it starves"):
        Adversary(house, run_of(1, 40)).run_until(large, max_passes=100)
