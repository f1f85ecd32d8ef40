"""Who calls: the tenant and the permissions that an authenticated caller has."""

from dataclasses import dataclass
from enum import StrEnum


class Permission(StrEnum):
    """What a caller may do."""

    GENERATE = "generate"
    INSPECT = "inspect"
    """See the live tree and the plan of its own namespace, and the metrics."""
    RETAIN = "retain"
    """Keep prefixes warm, save and restore them."""
    PUBLISH = "publish"
    """Mark a trunk as public."""
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller may have at once; None is no limit."""

    max_requests: int | None = None
    """Calls in flight."""
    max_tokens: int | None = None
    """Tokens in flight: of every prompt, and n × max_tokens."""
    requests_per_minute: int | None = None


NO_LIMITS = Allowance()


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated caller; `tenant` is also the namespace of its prefixes."""

    tenant: str = ""
    permissions: frozenset[Permission] = frozenset(Permission)
    key_id: str = ""
    """Of the API key; empty where no keys are used."""
    key_name: str = ""
    allowance: Allowance = NO_LIMITS


ANYBODY = Identity()
"""A caller whom nobody asked who it is: it may do everything."""
