"""The same question on paper, with the real router: clusters of any size, without a model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.router import Router
from treeserve.config import SchedulerConfig
from treeserve.simulation.cluster import (
    EngineKind,
    Routing,
    TwoChoices,
    replica_ids,
    simulate_cluster,
)
from treeserve.simulation.cluster_result import ClusterResult
from treeserve.simulation.cluster_workloads import CLUSTER_WORKLOADS
from treeserve.simulation.device import preset
from treeserve.simulation.least_copies import least_copies

_DEVICE = "h100-8b"
_CONFIG = SchedulerConfig(num_pages=20_000, token_budget=2048, max_running=128)
_CROWD = 4
"""Times the workload's rate; enough that a replica is never idle."""
_CROWD_SECONDS = 40.0

Tell = Callable[[str, int, float], None]
"""(what is simulated, requests that ended, virtual seconds)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperOptions:
    """What is simulated."""

    sizes: Sequence[int]
    """Numbers of replicas."""
    workloads: Sequence[str]
    """Keys of CLUSTER_WORKLOADS."""
    seconds: float
    """Of arrivals, in virtual time."""
    routers: Sequence[str]
    """Of "treeserve" and "two choices"."""
    engines: EngineKind


def simulate_clusters(options: PaperOptions, tell: Tell) -> dict[str, Any]:
    """Plain data of every size, workload and router.

    Args:
        options: What is simulated.
        tell: Called after each event.
    """
    most = {workload: _most_rows_per_second(workload) for workload in options.workloads}
    found = []
    for size in options.sizes:
        for workload in options.workloads:
            trace = CLUSTER_WORKLOADS[workload](size, options.seconds)
            bound = least_copies(trace, size)
            for name in options.routers:
                title = f"{size} replicas, {workload}, {name}"
                started = perf_counter()
                result = simulate_cluster(
                    trace,
                    size,
                    preset(_DEVICE),
                    _CONFIG,
                    _routing(name, size),
                    lambda ended, now, title=title: tell(title, ended, now),  # type: ignore[misc]
                    options.engines,
                )
                fields = _fields(result, most[workload])
                found.append(
                    {
                        "workload": workload,
                        "router": name,
                        "engines": options.engines,
                        "took_seconds": perf_counter() - started,
                        "least_copies": asdict(bound),
                        "bound": bound.again_tokens / result.least_tokens,
                        **fields,
                    }
                )
    return {
        "benchmark": "cluster simulation",
        "device": _DEVICE,
        "seconds": options.seconds,
        "max_running": _CONFIG.max_running,
        "simulated": found,
    }


def _most_rows_per_second(workload: str) -> float:
    """Of one replica, on which far more requests wait than it can run."""
    trace = [
        request if request.parent else replace(request, arrival_seconds=arrival / _CROWD)
        for request in CLUSTER_WORKLOADS[workload](1, _CROWD_SECONDS)
        for arrival in [request.arrival_seconds]
    ]
    found = simulate_cluster(trace, 1, preset(_DEVICE), _CONFIG, engines="lean")
    return found.later_load.rows_per_second


def _routing(name: str, size: int) -> Routing:
    if name == "two choices":
        return TwoChoices(replica_ids(size))
    router = Router(RouterConfig())
    router.update_replicas(replica_ids(size))
    return router


def _fields(result: ClusterResult, most_rows_per_second: float) -> dict[str, Any]:
    return {
        **asdict(result),
        "excess": result.excess,
        "later_excess": result.later_excess,
        "utilisation": result.later_load.rows_per_second / most_rows_per_second,
    }
