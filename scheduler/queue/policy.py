"""The policies of the waiting queue: in which order requests are admitted, and the constants."""

from dataclasses import dataclass
from typing import Protocol, get_args

from treeserve.config import PolicyName
from treeserve.scheduler.live import LiveRequest
from treeserve.scheduler.queue.waiting import OrderKey, Waiting
from treeserve.scheduler.sorted_items import SortedItems


@dataclass(frozen=True, slots=True)
class QueueTuning:
    """The constants of admission order."""

    output_share_tokens: int = 512
    """Of work for each sample, besides the prompt tokens that the tree does not hold. It bounds how
    much cheaper one request can look than another."""
    work_exponent: float = 0.75
    """How much work counts against a wait: with 1 twice the work must have waited twice as long,
    with 0 the order is that of arrival."""
    classes_per_octave: int = 4
    """Requests whose work differs by less than a factor of 2 ** (1 / this) count as equal."""
    base_wait_seconds: float = 0.05
    """Added to every wait, so that of requests that have just come the cheapest goes first."""
    pinned_bonus: float = 1.25
    """By how much longer a request counts as waiting whose match ends in a segment in use."""
    priority_seconds: float = 10.0
    """Of waiting that one unit of priority is worth, where priority is not strict."""
    max_priority: int = 8
    """Priorities beyond this, up or down, count as this where priority is not strict."""
    overtaking_slack_tokens: int = 131_072
    """Of work by which anybody may be overtaken."""
    overtaking_share: float = 0.5
    """Of the work that a request waits for, by which it may be overtaken besides."""
    backfill: int = 8
    """Requests that are tried after one that did not fit."""
    deadline_margin_seconds: float = 1.0
    """How long before the last moment to start a request is moved ahead for its deadline."""
    deadlines_looked_at: int = 8
    """The soonest ones, at every pick."""

    def work(self, num_missing: int, num_samples: int) -> int:
        """Tokens that a request counts as, of whose prompt the tree lacks `num_missing`."""
        return num_missing + num_samples * self.output_share_tokens


class Order(Protocol):
    """Waiting requests by what they share; the queue keeps them by arrival itself."""

    def add(self, waiting: Waiting) -> None: ...

    def discard(self, waiting: Waiting) -> None:
        """Before its stop changes, or it leaves."""

    def best(self, now: float) -> Waiting | None:
        """Who goes next."""

    def check(self, waiting: list[Waiting]) -> None:
        """Raises AssertionError unless exactly these are in it, where they belong."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How one tenant's requests are ordered.

    "tree": sharing first, with ageing: the highest ratio of wait to work (`SharingOrder`).
    "fcfs": by arrival.
    "priority": higher priority first, whatever the wait, and then by arrival.
    "longest-prefix": whose cached prefix is longest. Starves others: for comparison only.

    In "tree" and "fcfs" a unit of priority is worth some seconds of waiting, and overtaking is
    bounded (`ArrivalOrder`). In all of them a request moves ahead when its deadline leaves just
    enough time, and of equals the sooner deadline goes first.
    """

    name: PolicyName
    is_strict: bool
    """Whether priority comes before arrival."""
    is_bounded: bool
    """Whether overtaking is bounded."""
    may_backfill: bool
    """Whether others are tried after one that did not fit."""

    def level(self, request: LiveRequest, tuning: QueueTuning) -> int:
        """Requests of one level are in the order of their arrival."""
        if self.is_strict:
            return request.priority
        return max(-tuning.max_priority, min(tuning.max_priority, request.priority))

    def key(self, request: LiveRequest, serial: int, tuning: QueueTuning) -> OrderKey:
        """Of equal keys there are none."""
        rank, arrived_at = 0, request.arrived_at
        if self.is_strict:
            rank = -request.priority
        else:
            arrived_at -= self.level(request, tuning) * tuning.priority_seconds
        deadline = float("inf") if request.deadline is None else request.deadline
        return OrderKey(rank, arrived_at, deadline, serial)


_POLICIES = (
    Policy("tree", is_strict=False, is_bounded=True, may_backfill=True),
    Policy("fcfs", is_strict=False, is_bounded=True, may_backfill=False),
    Policy("priority", is_strict=True, is_bounded=False, may_backfill=False),
    Policy("longest-prefix", is_strict=False, is_bounded=False, may_backfill=True),
)


def find_policy(name: str) -> Policy:
    """Raises:
    ValueError: There is none of that name.
    """
    for policy in _POLICIES:
        if policy.name == name:
            return policy
    raise ValueError(f"policy must be one of {', '.join(get_args(PolicyName))}, got {name!r}")


class LongestPrefixOrder:
    """Whose match is longest, and of equals by arrival (SGLang's "lpm")."""

    def __init__(self) -> None:
        self._order: SortedItems[Waiting] = SortedItems(key=_by_match)

    def add(self, waiting: Waiting) -> None:
        self._order.add(waiting)

    def discard(self, waiting: Waiting) -> None:
        self._order.discard(waiting)

    def best(self, now: float) -> Waiting | None:
        if not self._order:
            return None
        return self._order[0]

    def check(self, waiting: list[Waiting]) -> None:
        assert list(self._order) == sorted(waiting, key=_by_match), "the longest is not first"


def _by_match(waiting: Waiting) -> tuple[int, OrderKey]:
    return (-waiting.stop.position, waiting.key)
