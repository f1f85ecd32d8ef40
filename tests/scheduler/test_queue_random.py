"""Anything in any order, against a naive queue that looks at everything afresh at every pick."""

from dataclasses import dataclass, field
from math import ceil, floor, log2

import numpy as np
import pytest
from queue_house import QueueHouse, WaitingRequest

from treeserve.scheduler.queue.policy import QueueTuning

TUNING = QueueTuning(
    output_share_tokens=4,
    classes_per_octave=2,
    priority_seconds=3.0,
    max_priority=1,
    overtaking_slack_tokens=60,
    overtaking_share=0.25,
    backfill=2,
    deadline_margin_seconds=1.0,
    deadlines_looked_at=3,
)
WEIGHTS = {"a": 2.0, "b": 1.0}
PACE = 0.125
POLICIES = ["tree", "fcfs", "priority", "longest-prefix"]


@dataclass(eq=False)
class Entry:
    request: WaitingRequest
    key: tuple
    level: int
    log_start: int
    tried: bool = False


@dataclass
class Account:
    served: float = 0.0
    ahead: int = 0


@dataclass
class NaiveQueue:
    """Lists, definitions and nothing else."""

    policy: str
    house: QueueHouse
    entries: list[Entry] = field(default_factory=list)
    log: list[tuple[str, tuple, int, set[str]]] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    floor: float = 0.0
    last_left: str = ""
    num_pushed: int = 0

    def rank(self, tenant):
        account = self.accounts.setdefault(tenant, Account(self.floor))
        return account.served + account.ahead / WEIGHTS[tenant]

    def tenants(self):
        return {entry.request.tenant for entry in self.entries}

    def settle_floor(self):
        self.floor = max([self.floor, *([min(map(self.rank, t))] if (t := self.tenants()) else [])])

    def push(self, request):
        if request.tenant not in self.tenants():
            if not self.entries and self.last_left in self.accounts:
                self.floor = max(self.floor, self.rank(self.last_left))
            lift = max(0.0, self.floor - self.rank(request.tenant))
            self.accounts[request.tenant].served += lift
        is_strict = self.policy == "priority"
        clamped = max(-1, min(1, request.priority))
        level = request.priority if is_strict else clamped
        arrived_at = request.arrived_at - (0 if is_strict else 3.0 * clamped)
        rank = -request.priority if is_strict else 0
        deadline = float("inf") if request.deadline is None else request.deadline
        key = (rank, arrived_at, deadline, self.num_pushed)
        self.num_pushed += 1
        self.entries.append(Entry(request, key, level, len(self.log)))
        self.settle_floor()

    def remove(self, entry):
        self.entries.remove(entry)
        if entry.request.tenant not in self.tenants():
            self.last_left = entry.request.tenant
        self.settle_floor()

    def admitted(self, entry, num_missing):
        tenant, num_samples = entry.request.tenant, entry.request.num_samples
        work = num_missing + 4 * num_samples
        blocked = {e.request.tenant for e in self.entries if e.tried} - {tenant}
        self.log.append((tenant, entry.key, work, blocked))
        self.rank(tenant)
        self.accounts[tenant].ahead += num_missing + num_samples
        self.settle_floor()

    def charge(self, tenant, num_tokens):
        self.rank(tenant)
        account = self.accounts[tenant]
        account.served += num_tokens / WEIGHTS[tenant]
        account.ahead -= min(account.ahead, num_tokens)
        self.settle_floor()

    def overtaken(self, entry):
        own = entry.request.tenant
        since = self.log[entry.log_start :]
        later = sum(w for t, key, w, _ in since if t == own and key > entry.key)
        return later + sum(w for _, _, w, blocked in since if own in blocked)

    def is_closed(self, tenant):
        if self.policy not in ("tree", "fcfs"):
            return False
        mine = [e for e in self.entries if e.request.tenant == tenant]
        for level in {e.level for e in mine}:
            first = min((e for e in mine if e.level == level), key=lambda e: e.key)
            since = self.log[first.log_start :]
            before = sum(w for t, key, w, _ in since if t == tenant and key < first.key)
            if self.overtaken(first) >= 60 + 0.25 * before:
                return True
        return False

    def best(self, now):
        for tenant in sorted(self.tenants(), key=lambda t: (self.rank(t), t)):
            entry = self.best_of(tenant, now)
            if entry is not None:
                return None if entry.tried else entry
        return None

    def best_of(self, tenant, now):
        mine = [e for e in self.entries if e.request.tenant == tenant]
        first = min(mine, key=lambda e: e.key)
        if self.is_closed(tenant):
            return first
        soonest = sorted(mine, key=lambda e: (e.key[2], e.key[3]))
        for entry in soonest[: TUNING.deadlines_looked_at]:
            if self.is_due(entry, now) and not entry.tried:
                if self.policy != "priority" or entry.level >= first.level:
                    return entry
                break
        if self.policy in ("fcfs", "priority"):
            return first
        open_ones = [e for e in mine if not e.tried]
        measure = self.ratio if self.policy == "tree" else self.matched
        return min(open_ones, key=lambda e: (-measure(e, now), e.key), default=None)

    def missing(self, entry):
        prefix = entry.request.prefix
        return len(prefix) - self.house.tree.locate(prefix).num_matched

    def is_due(self, entry, now):
        if entry.request.deadline is None:
            return False
        num_tokens = self.missing(entry) + entry.request.num_output_tokens
        last_start = entry.request.deadline - PACE * num_tokens
        return last_start - 1.0 <= now <= last_start

    def matched(self, entry, now):
        return self.house.tree.locate(entry.request.prefix).num_matched

    def ratio(self, entry, now):
        """The first of a cohort shares what it misses with the others."""
        mine = [e for e in self.entries if e.request.tenant == entry.request.tenant]
        cohort = [e for e in mine if not e.tried and self.place(e) == self.place(entry)]
        is_first = entry.key == min(e.key for e in cohort)
        num_missing = ceil(self.missing(entry) / (len(cohort) if is_first else 1))
        work = num_missing + 4 * entry.request.num_samples
        cost = 2 ** (TUNING.work_exponent * floor(2 * log2(work / 4)) / 2)
        wait = max(0.0, now - entry.key[1]) + TUNING.base_wait_seconds
        is_used = self.house.tree.locate(entry.request.prefix).segment.pins > 0
        return wait / cost * (TUNING.pinned_bonus if is_used else 1.0)

    def place(self, entry):
        """Where it stops, and what it would go on with."""
        prefix = entry.request.prefix
        location = self.house.tree.locate(prefix)
        at = location.num_matched
        following = None if at == len(prefix) else (prefix.zone(at)[0], int(prefix.tokens[at]))
        return (id(location.segment), at, following)


class Walk:
    """Random operations, the same on both; 60 pages of 2 tokens, so that room is short."""

    def __init__(self, policy: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.house = QueueHouse(policy, num_pages=60, page_size=2, weights=WEIGHTS, tuning=TUNING)
        self.house.queue.pace = PACE
        self.naive = NaiveQueue(policy, self.house)
        self.trunks = self.rng.integers(0, 3, (3, 16)).tolist()
        self.now = 0.0

    def chance(self, percent: int) -> bool:
        return int(self.rng.integers(100)) < percent

    def step(self) -> None:
        self.now += float(self.rng.integers(0, 5)) / 8
        operation = self.rng.choice(
            [self.push, self.run_pass, self.end, self.abort, self.charge, self.disturb],
            p=[0.4, 0.2, 0.15, 0.05, 0.1, 0.1],
        )
        operation()
        self.house.check()
        for entry in self.naive.entries:
            request_id = entry.request.request_id
            assert self.house.queue.num_overtaken(request_id) == self.naive.overtaken(entry)

    def push(self) -> None:
        trunk = self.trunks[int(self.rng.integers(3))][: int(self.rng.integers(0, 17))]
        tokens = [*trunk, *self.rng.integers(0, 3, int(self.rng.integers(1, 9))).tolist()]
        deadline = self.now + float(self.rng.integers(1, 40)) / 8 if self.chance(20) else None
        request_id = self.house.push(
            tokens,
            at=self.now,
            namespace=str(self.rng.choice(["x", "y"])),
            num_public=int(self.rng.integers(0, len(tokens) + 1)) if self.chance(50) else 0,
            tenant=str(self.rng.choice(["a", "b"])),
            priority=int(self.rng.integers(-2, 3)) if self.chance(20) else 0,
            deadline=deadline,
            num_samples=int(self.rng.integers(1, 5)),
            num_output_tokens=int(self.rng.integers(1, 9)),
        )
        self.naive.push(self.house.queue.get(request_id))

    def run_pass(self) -> None:
        max_admitted = int(self.rng.integers(1, 6))
        num_tried = 0
        for request in self.house.queue.candidates(self.now):
            expected = self.naive.best(self.now)
            assert expected is not None
            assert request is expected.request
            num_missing = self.naive.missing(expected)
            if self.chance(75) and self.house.admit(request):
                self.naive.remove(expected)
                self.naive.admitted(expected, num_missing)
                max_admitted -= 1
                if max_admitted == 0:
                    break
                continue
            num_tried += 1
            if num_tried > 2 or self.may_not_go_past(expected):
                break
            expected.tried = True
        else:
            expected = self.naive.best(self.now)
            assert expected is None
        for entry in self.naive.entries:
            entry.tried = False

    def may_not_go_past(self, entry: Entry) -> bool:
        is_in_order = self.naive.policy in ("fcfs", "priority")
        return is_in_order or self.naive.is_closed(entry.request.tenant)

    def end(self) -> None:
        if self.house.leaves:
            victim = str(self.rng.choice(list(self.house.leaves)))
            leaf = self.house.leaves[victim]
            if self.chance(50) or not leaf.is_pending:
                self.house.end(victim)
                return
            if not leaf.parent.is_pending:
                num_computed = int(self.rng.integers(leaf.num_computed, len(leaf)))
                self.house.tree.mark_computed(leaf, num_computed)
            self.house.end(victim, computed=False)

    def abort(self) -> None:
        if self.naive.entries:
            entry = self.naive.entries[int(self.rng.integers(len(self.naive.entries)))]
            self.house.queue.remove(entry.request.request_id)
            self.naive.remove(entry)

    def charge(self) -> None:
        tenant, num_tokens = str(self.rng.choice(["a", "b"])), int(self.rng.integers(1, 30))
        self.house.queue.charge(tenant, num_tokens)
        self.naive.charge(tenant, num_tokens)

    def disturb(self) -> None:
        """Splits and evictions that come from elsewhere."""
        if self.chance(20):
            self.house.tree.clear()
        elif self.chance(50):
            self.house.tree.evict(int(self.rng.integers(1, 10)))
        elif self.naive.entries:
            entry = self.naive.entries[int(self.rng.integers(len(self.naive.entries)))]
            self.house.tree.match(entry.request.prefix)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(6))
def test_the_queue_is_the_naive_queue(policy, seed):
    walk = Walk(policy, seed)
    for _ in range(250):
        walk.step()
    assert len(walk.naive.log) > 20, "the walk admitted next to nothing"
