"""One tenant's part of the waiting queue: whose turn it is."""

from math import isfinite

from treeserve.scheduler.queue.arrival_order import ArrivalOrder
from treeserve.scheduler.queue.policy import LongestPrefixOrder, Order, Policy, QueueTuning
from treeserve.scheduler.queue.sharing_order import SharingOrder
from treeserve.scheduler.queue.waiting import Waiting
from treeserve.scheduler.sorted_items import SortedItems


class TenantQueue:
    """By arrival while overtaking is spent; else who is due for its deadline; else by the policy.

    What is parked did not fit in this pass and is not offered again, but for the first by arrival.
    """

    def __init__(self, policy: Policy, tuning: QueueTuning) -> None:
        self._policy = policy
        self._tuning = tuning
        self.arrivals = ArrivalOrder(tuning)
        self._deadlines: SortedItems[tuple[float, int, Waiting]] = SortedItems()
        self._order = _make_order(policy, tuning)

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def is_closed(self) -> bool:
        """Whether nobody may go before the first by arrival."""
        return self._policy.is_bounded and self.arrivals.is_spent

    def add(self, waiting: Waiting) -> None:
        self.arrivals.add(waiting)
        if waiting.request.deadline is not None:
            self._deadlines.add((waiting.request.deadline, waiting.key.serial, waiting))
        self.place(waiting)

    def remove(self, waiting: Waiting) -> None:
        self.lift(waiting)
        self.arrivals.remove(waiting)
        if waiting.request.deadline is not None:
            self._deadlines.remove((waiting.request.deadline, waiting.key.serial, waiting))

    def lift(self, waiting: Waiting) -> None:
        """Takes it out of the policy's order."""
        if self._order is not None and not waiting.is_parked:
            self._order.discard(waiting)

    def place(self, waiting: Waiting) -> None:
        """Undoes `lift`."""
        if self._order is not None and not waiting.is_parked:
            self._order.add(waiting)

    def park(self, waiting: Waiting) -> None:
        self.lift(waiting)
        waiting.is_parked = True

    def unpark(self, waiting: Waiting) -> None:
        waiting.is_parked = False
        self.place(waiting)

    def best(self, now: float, pace: float) -> Waiting | None:
        """Whose turn it is; None if all are parked."""
        first = self.arrivals.first
        if self.is_closed:
            return first
        due = self._due(now, pace)
        if due is not None and not (self._policy.is_strict and due.level < first.level):
            return due
        return first if self._order is None else self._order.best(now)

    def check(self) -> None:
        """Raises AssertionError unless all orders name the same requests."""
        self.arrivals.check()
        waiting = list(self.arrivals)
        due = sorted((w.key.deadline, w.key.serial) for w in waiting if isfinite(w.key.deadline))
        assert [entry[:2] for entry in self._deadlines] == due, "deadlines and requests disagree"
        if self._order is not None:
            self._order.check([each for each in waiting if not each.is_parked])

    def _due(self, now: float, pace: float) -> Waiting | None:
        """Of the soonest deadlines, the first that can still be met and not much longer."""
        if pace <= 0:
            return None
        soonest: list[tuple[float, int, Waiting]]
        soonest = self._deadlines[: self._tuning.deadlines_looked_at]
        for deadline, _, waiting in soonest:
            num_tokens = waiting.num_missing + waiting.request.num_output_tokens
            last_start = deadline - pace * num_tokens
            margin = self._tuning.deadline_margin_seconds
            if last_start - margin <= now <= last_start and not waiting.is_parked:
                return waiting
        return None


def _make_order(policy: Policy, tuning: QueueTuning) -> Order | None:
    """None where the order of arrival is all."""
    if policy.name == "tree":
        return SharingOrder(tuning)
    if policy.name == "longest-prefix":
        return LongestPrefixOrder()
    return None
