"""Traces for clusters: seeded workloads whose load grows with the number of replicas."""

from collections.abc import Callable

from treeserve.simulation.trace import TraceRequest
from treeserve.simulation.workloads import Rates, Workload

_SEED = 11
_BURST, _CALM = 1.5, 0.7
"""Of the mean rate, in turn; together they are the mean again."""
_PROMPTS_RATE, _CONTEST_RATE, _AGENTS_RATE = 12.0, 2.5, 1.5
"""Conversations, problems and trees a second for each replica: about two thirds of what one can do
with the options of `treeserve bench cluster`.
"""


def prompts(num_replicas: int, seconds: float) -> list[TraceRequest]:
    """Chats under twice as many system prompts as replicas, some asked far more than others."""
    workload = Workload(_SEED)
    weights = [1 / (1 + rank) for rank in range(2 * num_replicas)]
    for weight in weights:
        rate = _PROMPTS_RATE * num_replicas * weight / sum(weights)
        workload.chat(_most(rate, seconds), _rates(rate, seconds))
    return workload.requests()


def contest(num_replicas: int, seconds: float) -> list[TraceRequest]:
    """Problems with 8 to 32 samples each, under a few-shot prompt for every four replicas."""
    workload = Workload(_SEED)
    num_contests = max(1, num_replicas // 4)
    rate = _CONTEST_RATE * num_replicas / num_contests
    for _ in range(num_contests):
        workload.contest(_most(rate, seconds), (8, 16, 32), _rates(rate, seconds))
    return workload.requests()


def agents(num_replicas: int, seconds: float) -> list[TraceRequest]:
    """Trees three to six deep, under a set of tools for every two replicas."""
    workload = Workload(_SEED)
    num_tools = max(1, num_replicas // 2)
    rate = _AGENTS_RATE * num_replicas / num_tools
    for _ in range(num_tools):
        workload.agents(_most(rate, seconds), _rates(rate, seconds))
    return workload.requests()


CLUSTER_WORKLOADS: dict[str, Callable[[int, float], list[TraceRequest]]] = {
    "prompts": prompts,
    "contest": contest,
    "agents": agents,
}
"""By name: (replicas, seconds of arrivals) -> trace."""


def _rates(mean: float, seconds: float) -> Rates:
    return Rates(burst=_BURST * mean, calm=_CALM * mean, until_seconds=seconds)


def _most(rate: float, seconds: float) -> int:
    """More than will come in that time."""
    return round(3 * rate * seconds) + 20
