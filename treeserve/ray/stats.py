"""What a replica tells every router of itself, as it crosses Ray Serve."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from treeserve.cluster.router import ReplicaStats

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsMessage:
    """What `record_routing_stats` returns, as a dict."""

    epoch: str
    """Another one where the engine has started again."""
    number: int
    """Counts up: Ray Serve may hand over the same message many times."""
    num_cached_tokens: int
    capacity_tokens: int
    work_by_router: Mapping[str, float]
    """Open work, by the router that sent it."""


def read_stats(message: Mapping[str, Any]) -> StatsMessage | None:
    """None where a replica has not answered yet, or with something else, which is logged."""
    if not message:
        return None
    names = {field.name for field in fields(StatsMessage)}
    if names != set(message) or not _is_well_formed(message):
        logger.warning("a replica's routing stats are not understood, and are not used")
        return None
    return StatsMessage(**message)


def stats_for(message: StatsMessage, router_id: str) -> ReplicaStats:
    """As one router has to see them."""
    others = (work for key, work in message.work_by_router.items() if key != router_id)
    return ReplicaStats(
        epoch=message.epoch,
        num_cached_tokens=message.num_cached_tokens,
        capacity_tokens=message.capacity_tokens,
        work_of_others=max(0.0, sum(others)),
    )


def _is_well_formed(message: Mapping[str, Any]) -> bool:
    counts = [message[name] for name in ("number", "num_cached_tokens", "capacity_tokens")]
    work = message["work_by_router"]
    return (
        isinstance(message["epoch"], str)
        and all(isinstance(count, int) and count >= 0 for count in counts)
        and isinstance(work, Mapping)
        and all(isinstance(value, int | float) for value in work.values())
    )
