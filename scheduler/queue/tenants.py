"""Fair shares: which tenant has been served least for its weight."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from treeserve.scheduler.sorted_items import SortedItems

MAX_IDLE_TENANTS = 4096
"""Of which is remembered what they were served."""


@dataclass(frozen=True, slots=True)
class TenantShare:
    """A tenant in numbers."""

    tenant: str
    weight: float
    served: float
    """Tokens divided by the weight; only differences between tenants mean something."""
    is_waiting: bool


class FairShares:
    """Virtual token counters (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024).

    Of the tenants that wait the one that was served least goes next: tokens that were really
    computed or drawn, divided by its weight. Who comes to wait is lifted to the least of those who
    wait, so nobody saves up credit.

    What is admitted is computed later. So tokens that will surely be computed are booked ahead, and
    each token that is charged takes one off what is ahead until nothing is left: one pass does not
    give all room to one tenant, and in the long run only what was charged counts.

    Of the tenants that do not wait some are forgotten when there are too many, least served first:
    they start anew from the least of those who wait.

    Args:
        weights: Of tenants; 1 for others.
        max_idle_tenants: Of those that do not wait, how many are remembered.

    Raises:
        ValueError: A weight is not positive.
    """

    def __init__(
        self, weights: Mapping[str, float], *, max_idle_tenants: int = MAX_IDLE_TENANTS
    ) -> None:
        for tenant, weight in weights.items():
            if not weight > 0:
                raise ValueError(f"the weight of tenant {tenant!r} must be positive, got {weight}")
        self._weights = dict(weights)
        self._max_idle_tenants = max_idle_tenants
        self._accounts: dict[str, _Account] = {}
        self._waiting: SortedItems[tuple[float, str]] = SortedItems()
        self._idle: SortedItems[tuple[float, str]] = SortedItems()
        self._floor = 0.0
        """The least of those who wait, or last waited; never falls."""
        self._last_waiting = ""

    def __iter__(self) -> Iterator[str]:
        """Tenants that wait, least served first."""
        return (tenant for _, tenant in self._waiting)

    def join(self, tenant: str) -> None:
        """The tenant comes to wait."""
        if not self._waiting and self._last_waiting in self._accounts:
            self._floor = max(self._floor, self._accounts[self._last_waiting].rank)
        account = self._take(tenant)
        account.served += max(0.0, self._floor - account.rank)
        account.is_waiting = True
        self._put(tenant, account)

    def leave(self, tenant: str) -> None:
        """Nothing of the tenant waits any more."""
        account = self._take(tenant)
        account.is_waiting = False
        self._last_waiting = tenant
        self._put(tenant, account)

    def charge(self, tenant: str, num_tokens: int) -> None:
        """Tokens that were computed or drawn for the tenant."""
        account = self._take(tenant)
        account.num_ahead -= min(account.num_ahead, num_tokens)
        account.served += num_tokens / account.weight
        self._put(tenant, account)

    def book(self, tenant: str, num_tokens: int) -> None:
        """Of a request of the tenant that was admitted: what is to be charged at least."""
        account = self._take(tenant)
        account.num_ahead += num_tokens
        self._put(tenant, account)

    def snapshot(self) -> tuple[TenantShare, ...]:
        """Those who wait, and those of whom something is remembered."""
        return tuple(
            TenantShare(tenant, each.weight, each.served, each.is_waiting)
            for tenant, each in sorted(self._accounts.items())
        )

    def check(self) -> None:
        """Raises AssertionError unless both orders are what the accounts say."""
        for order, is_waiting in ((self._waiting, True), (self._idle, False)):
            accounts = [(t, a) for t, a in self._accounts.items() if a.is_waiting is is_waiting]
            expected = sorted((account.rank, tenant) for tenant, account in accounts)
            assert list(order) == expected, "the order and the accounts disagree"
        assert len(self._idle) <= self._max_idle_tenants, "too many idle tenants are remembered"
        rounded = self._floor - 1e-9 * abs(self._floor)
        assert not self._waiting or self._waiting[0][0] >= rounded, "somebody saved up credit"

    def _take(self, tenant: str) -> "_Account":
        account = self._accounts.pop(tenant, None)
        if account is None:
            return _Account(self._weights.get(tenant, 1.0), self._floor)
        self._order_of(account).remove((account.rank, tenant))
        return account

    def _put(self, tenant: str, account: "_Account") -> None:
        self._accounts[tenant] = account
        self._order_of(account).add((account.rank, tenant))
        if self._waiting:
            self._floor = max(self._floor, self._waiting[0][0])
        if len(self._idle) > self._max_idle_tenants:
            del self._accounts[self._idle.pop(0)[1]]

    def _order_of(self, account: "_Account") -> SortedItems[tuple[float, str]]:
        return self._waiting if account.is_waiting else self._idle


@dataclass(slots=True)
class _Account:
    weight: float
    served: float
    num_ahead: int = 0
    is_waiting: bool = False

    @property
    def rank(self) -> float:
        return self.served + self.num_ahead / self.weight
