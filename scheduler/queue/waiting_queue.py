"""The waiting queue: who is admitted next, tenants among each other and each one's requests."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from treeserve.scheduler.live import LiveRequest
from treeserve.scheduler.queue.policy import QueueTuning, find_policy
from treeserve.scheduler.queue.tenant_queue import TenantQueue
from treeserve.scheduler.queue.tenants import FairShares, TenantShare
from treeserve.scheduler.queue.waiting import Waiting
from treeserve.scheduler.queue.waiting_index import WaitingIndex
from treeserve.scheduler.tree.path import num_pending_tokens
from treeserve.scheduler.tree.radix_tree import RadixTree

DEFAULT_TUNING = QueueTuning()


class WaitingQueue:
    """Every request waits in its tenant's queue; the least served tenant's best one goes next.

    Work that depends on the number of waiting requests grows with its logarithm, and with the
    number of requests whose match a change of the tree moved.

    Args:
        policy: "tree", "fcfs", "priority" or "longest-prefix", see `Policy`.
        tree: Nobody else listens to it.
        tenant_weights: Of the room under load; 1 for tenants that are not in it.
        tuning: The constants.

    Raises:
        ValueError: There is no such policy, or a weight is not positive.
    """

    def __init__(
        self,
        policy: str,
        tree: RadixTree,
        tenant_weights: Mapping[str, float],
        tuning: QueueTuning = DEFAULT_TUNING,
    ) -> None:
        self._policy = find_policy(policy)
        self._tuning = tuning
        self._index = WaitingIndex(tree, lifted=self._lift, placed=self._place)
        self._shares = FairShares(tenant_weights)
        self._tenants: dict[str, TenantQueue] = {}
        self._waiting: dict[str, Waiting] = {}
        self._num_pushed = 0
        self._offer: _Offer | None = None
        self._parked: list[Waiting] = []
        self.pace = 0.0
        """Seconds that a token takes, to tell when a deadline is near; 0: not known."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def get(self, request_id: str) -> LiveRequest | None:
        waiting = self._waiting.get(request_id)
        return None if waiting is None else waiting.request

    def num_uncomputed(self, request_id: str) -> int:
        """Tokens of its prompt that nobody has computed yet.

        Raises:
            KeyError: It does not wait.
        """
        waiting = self._waiting[request_id]
        return waiting.num_missing + num_pending_tokens(waiting.stop.segment)

    def push(self, request: LiveRequest, now: float) -> None:
        """The request waits from now on, in the place that its arrival gives it.

        Raises:
            ValueError: It waits already, or arrived after `now`.
        """
        if request.request_id in self._waiting:
            raise ValueError(f"{request.request_id!r} waits already")
        if request.arrived_at > now:
            raise ValueError(f"{request.request_id!r} arrived later than now")
        level = self._policy.level(request, self._tuning)
        key = self._policy.key(request, self._num_pushed, self._tuning)
        waiting = self._waiting[request.request_id] = Waiting(request, level, key)
        self._num_pushed += 1
        self._index.add(waiting)
        tenant = self._tenants.get(request.tenant)
        if tenant is None:
            tenant = self._tenants[request.tenant] = TenantQueue(self._policy, self._tuning)
            self._shares.join(request.tenant)
        tenant.add(waiting)

    def remove(self, request_id: str) -> None:
        """The request does not wait any more; if it was just yielded, it is admitted.

        Raises:
            KeyError: It does not wait.
        """
        waiting = self._waiting.pop(request_id)
        name, stop = waiting.request.tenant, waiting.stop
        tenant = self._tenants[name]
        tenant.remove(waiting)
        self._index.remove(waiting)
        if waiting.is_parked:
            self._parked.remove(waiting)
        if len(tenant) == 0:
            del self._tenants[name]
            self._shares.leave(name)
        if self._offer is not None and self._offer.waiting is waiting:
            num_missing, self._offer = self._offer.num_missing, None
            self._index.enliven(stop.segment)
            self._count_admitted(waiting, tenant, num_missing, waiting.request.num_samples)

    def candidates(self, now: float) -> Iterator[LiveRequest]:
        """Who is to be admitted next, one after the other.

        Remove what was just yielded if it was admitted; what was not removed had no room, wholly or
        for the rest of its samples. Then others are tried where the policy lets them go past it.
        Stop iterating when there is room for nobody.

        Args:
            now: Seconds, of the clock that requests were stamped with.
        """
        try:
            while (waiting := self._best(now)) is not None and not waiting.is_parked:
                self._offer = _Offer(waiting, waiting.num_missing)
                yield waiting.request
                if self._offer is not None and not self._try_others(self._offer):
                    return
        finally:
            self._end_pass()

    def charge(self, tenant: str, num_tokens: int) -> None:
        """Tokens that were really computed or drawn for the tenant."""
        self._shares.charge(tenant, num_tokens)

    def shares(self) -> tuple[TenantShare, ...]:
        """What tenants were served: those who wait, and those who had more than these."""
        return self._shares.snapshot()

    def num_overtaken(self, request_id: str) -> int:
        """Work of later requests that were admitted since this one came, in tokens.

        Raises:
            KeyError: It does not wait.
        """
        waiting = self._waiting[request_id]
        return self._tenants[waiting.request.tenant].arrivals.num_overtaken(waiting)

    def check(self) -> None:
        """Raises AssertionError unless all indices are what a fresh look at the tree gives."""
        assert list(self._shares) == [t for t in self._shares if t in self._tenants]
        assert len(list(self._shares)) == len(self._tenants), "shares and tenants disagree"
        num_waiting = 0
        for name, tenant in self._tenants.items():
            tenant.check()
            num_waiting += len(tenant)
            for waiting in tenant.arrivals:
                assert waiting.request.tenant == name, "in another tenant's queue"
                assert self._waiting[waiting.request.request_id] is waiting
                assert waiting.is_parked == (waiting in self._parked), "parked, and nobody knows"
        assert num_waiting == len(self._waiting), "a request is lost"
        self._shares.check()
        self._index.check(self._waiting.values())

    def _best(self, now: float) -> Waiting | None:
        for name in self._shares:
            waiting = self._tenants[name].best(now, self.pace)
            if waiting is not None:
                return waiting
        return None

    def _try_others(self, offer: "_Offer") -> bool:
        """Whether others may go past the one that was offered and did not fit."""
        self._offer = None
        waiting = offer.waiting
        tenant = self._tenants[waiting.request.tenant]
        num_taken = offer.num_missing - waiting.num_missing
        if num_taken > 0:
            # Some of its samples started: its prompt is in the tree now, and the rest waits.
            self._index.enliven(waiting.stop.segment)
            self._count_admitted(waiting, tenant, num_taken, 0)
        may_try = self._policy.may_backfill and len(self._parked) < self._tuning.backfill
        if not may_try or tenant.is_closed:
            return False
        tenant.park(waiting)
        self._parked.append(waiting)
        return True

    def _count_admitted(
        self, waiting: Waiting, tenant: TenantQueue, num_missing: int, num_samples: int
    ) -> None:
        # No more than will be charged: a sample draws one token at least.
        self._shares.book(waiting.request.tenant, num_missing + num_samples)
        work = self._tuning.work(num_missing, num_samples)
        tenant.arrivals.count_admitted(waiting.key, work)
        passed = {id(t): t for p in self._parked if (t := self._tenants[p.request.tenant])}
        for other in passed.values():
            if other is not tenant:
                other.arrivals.count_let_past(work)

    def _end_pass(self) -> None:
        self._offer = None
        for waiting in self._parked:
            self._tenants[waiting.request.tenant].unpark(waiting)
        self._parked.clear()

    def _lift(self, waiting: Waiting) -> None:
        tenant = self._tenants.get(waiting.request.tenant)
        if tenant is not None:
            tenant.lift(waiting)

    def _place(self, waiting: Waiting) -> None:
        self._tenants[waiting.request.tenant].place(waiting)


@dataclass(frozen=True, slots=True)
class _Offer:
    """What was yielded, and how many tokens of its prompt the tree lacked then."""

    waiting: Waiting
    num_missing: int
