"""The same question on paper, with the real router: clusters of any size, without a model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.router import Router
from treeserve.config import SchedulerConfig
from treeserve.simulation.cluster import (
    ClusterResult,
    Routing,
    TwoChoices,
    replica_ids,
    simulate_cluster,
)
from treeserve.simulation.cluster_workloads import CLUSTER_WORKLOADS
from treeserve.simulation.device import preset

_DEVICE = "h100-8b"
_CONFIG = SchedulerConfig(num_pages=20_000, token_budget=2048)

Tell = Callable[[str, int, float], None]
"""(what is simulated, requests that ended, virtual seconds)"""


def simulate_clusters(
    sizes: Sequence[int],
    workloads: Sequence[str],
    seconds: float,
    routers: Sequence[str],
    tell: Tell,
) -> dict[str, Any]:
    """Plain data of every size, workload and router.

    Args:
        sizes: Numbers of replicas.
        workloads: Keys of CLUSTER_WORKLOADS.
        seconds: Of arrivals, in virtual time.
        routers: Of "treeserve" and "two choices".
        tell: Called after each step of a replica.
    """
    found = []
    for size in sizes:
        for workload in workloads:
            trace = CLUSTER_WORKLOADS[workload](size, seconds)
            for name in routers:
                title = f"{size} replicas, {workload}, {name}"
                result = simulate_cluster(
                    trace,
                    size,
                    preset(_DEVICE),
                    _CONFIG,
                    _routing(name, size),
                    lambda ended, now, title=title: tell(title, ended, now),  # type: ignore[misc]
                )
                found.append({"workload": workload, "router": name, **_fields(result)})
    return {
        "benchmark": "cluster simulation",
        "device": _DEVICE,
        "seconds": seconds,
        "simulated": found,
    }


def _routing(name: str, size: int) -> Routing:
    if name == "two choices":
        return TwoChoices(replica_ids(size))
    router = Router(RouterConfig())
    router.update_replicas(replica_ids(size))
    return router


def _fields(result: ClusterResult) -> dict[str, Any]:
    return {**asdict(result), "excess": result.excess, "warm_excess": result.warm_excess}
