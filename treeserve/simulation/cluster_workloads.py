"""Traces for clusters: seeded workloads whose load grows with the number of replicas."""

from collections.abc import Callable

from treeserve.simulation.trace import TraceRequest
from treeserve.simulation.workloads import Rates, Workload

_SEED = 11
_BURST, _CALM = 1.5, 0.7
"""Of the mean rate."""


def prompts(num_replicas: int, seconds: float) -> list[TraceRequest]:
    """Chats under twice as many system prompts as replicas, some asked far more than others."""
    workload = Workload(_SEED)
    weights = [1 / (1 + rank) for rank in range(2 * num_replicas)]
    for weight in weights:
        rate = 5 * num_replicas * weight / sum(weights)
        workload.chat(max(1, int(rate * seconds)), _rates(rate))
    return workload.requests()


def contest(num_replicas: int, seconds: float) -> list[TraceRequest]:
    """Problems with 8 to 32 samples each, under a few-shot prompt for every four replicas."""
    workload = Workload(_SEED)
    num_contests = max(1, num_replicas // 4)
    rate = 1.5 * num_replicas / num_contests
    for _ in range(num_contests):
        workload.contest(max(1, int(rate * seconds)), (8, 16, 32), _rates(rate))
    return workload.requests()


def agents(num_replicas: int, seconds: float) -> list[TraceRequest]:
    """Trees three to six deep, under a set of tools for every two replicas."""
    workload = Workload(_SEED)
    for _ in range(max(1, num_replicas // 2)):
        workload.agents(max(1, int(2 * seconds)), _rates(2.0))
    return workload.requests()


CLUSTER_WORKLOADS: dict[str, Callable[[int, float], list[TraceRequest]]] = {
    "prompts": prompts,
    "contest": contest,
    "agents": agents,
}
"""By name: (replicas, seconds of arrivals) -> trace."""


def _rates(mean: float) -> Rates:
    return Rates(burst=_BURST * mean, calm=_CALM * mean)
