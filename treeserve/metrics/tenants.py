"""Tenants as labels: however many there are, only so many series."""

from treeserve.metrics.declarations import MAX_TENANTS, NO_TENANT, OTHER_TENANTS


class TenantLabels:
    """The first MAX_TENANTS have labels of their own, for good; all others share one."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, tenant: str) -> str:
        """The label of a tenant; "" is a caller who has none."""
        if not tenant:
            return NO_TENANT
        if tenant in self._known:
            return tenant
        if len(self._known) >= MAX_TENANTS:
            return OTHER_TENANTS
        self._known.add(tenant)
        return tenant
