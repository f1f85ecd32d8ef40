"""Runs every workload on replicas behind every router, one router after the other."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from treeserve.bench.cluster.workloads import Chain, make_chains
from treeserve.bench.machine import describe_machine
from treeserve.client import Client
from treeserve.errors import TreeserveError
from treeserve.ray.local_cluster import LocalCluster, local_cluster
from treeserve.types import Delta

ROUTERS = {
    "treeserve": "treeserve.ray.request_router.PrefixRouter",
    "two choices": "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter",
    "ray prefix": (
        "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router"
        ".PrefixCacheAffinityRouter"
    ),
}
"""By the names of the table: two choices is Ray Serve's default; ray prefix is its own router by
prefixes of text, which sees a character for each token."""

ALONE = "one replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """How much is measured."""

    num_replicas: int
    num_chains: int
    """Of each workload."""
    num_streams: int
    """That are open at once."""
    workloads: Sequence[str]
    routers: Sequence[str]
    engine: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One workload behind one router."""

    router: str
    workload: str
    num_replicas: int
    num_calls: int
    drawn_tokens: int
    seconds: float
    prompt_tokens: int
    computed_tokens: int
    """Of prompts, on all replicas."""
    imbalance: float
    """Of tokens computed and drawn: the most of a replica over the mean."""
    first_token_p50: float
    """Seconds."""
    first_token_p99: float


def measure_cluster(options: ClusterOptions, tell: Callable[[str], None]) -> dict[str, Any]:
    """Plain data; first of one replica that holds everything, then of each router.

    Raises:
        TreeserveError: A call failed or drew another number of tokens than it was asked for.
    """
    measured: list[Measured] = []
    sides = [(ALONE, ROUTERS["treeserve"], 1)]
    sides += [(name, ROUTERS[name], options.num_replicas) for name in options.routers]
    with local_cluster(num_cpus=options.num_replicas + 1) as cluster:
        for name, path, num_replicas in sides:
            tell(f"{name}: {num_replicas} replicas start")
            cluster.deploy(
                {
                    "num_replicas": num_replicas,
                    "engine": options.engine,
                    "router_class": path,
                    "stats_seconds": 0.5,
                }
            )
            # The workloads have no text in common: none finds what another one left.
            for workload in options.workloads:
                tell(f"{name}, {workload}")
                measured.append(_measure(cluster, name, workload, num_replicas, options))
            cluster.remove()
    return {
        "benchmark": "cluster",
        **describe_machine(torch.device("cpu")),
        "options": asdict(options),
        "measured": [asdict(entry) for entry in measured],
    }


@dataclass(frozen=True, slots=True)
class _Answer:
    num_calls: int
    drawn_tokens: int
    first_token_seconds: list[float]


def _measure(
    cluster: LocalCluster, name: str, workload: str, num_replicas: int, options: ClusterOptions
) -> Measured:
    chains = make_chains(workload, options.num_chains)
    with Client(cluster.address) as client, ThreadPoolExecutor(options.num_streams) as pool:
        client.count_tokens("The first call of an ingress reads its tokenizer.")
        before = cluster.totals()
        started = perf_counter()
        answers = list(pool.map(lambda chain: _send(client, chain), chains))
        seconds = perf_counter() - started
    totals = [_since(replica_id, before, totals) for replica_id, totals in cluster.totals().items()]
    work = [total["computed_tokens"] + total["drawn_tokens"] for total in totals]
    firsts = [first for answer in answers for first in answer.first_token_seconds]
    return Measured(
        router=name,
        workload=workload,
        num_replicas=num_replicas,
        num_calls=sum(answer.num_calls for answer in answers),
        drawn_tokens=sum(answer.drawn_tokens for answer in answers),
        seconds=seconds,
        prompt_tokens=sum(total["prompt_tokens"] for total in totals),
        computed_tokens=sum(total["computed_tokens"] for total in totals),
        imbalance=max(work) / statistics.fmean(work),
        first_token_p50=float(np.percentile(firsts, 50)),
        first_token_p99=float(np.percentile(firsts, 99)),
    )


def _since(
    replica_id: str, before: dict[str, dict[str, int]], totals: dict[str, int]
) -> dict[str, int]:
    return {name: total - before[replica_id][name] for name, total in totals.items()}


def _send(client: Client, chain: Chain) -> _Answer:
    text, drawn = "", 0
    firsts: list[float] = []
    for step in chain.steps:
        started = perf_counter()
        answer, first = "", None
        num_tokens: Counter[tuple[tuple[int, ...], int]] = Counter()
        for item in client.generate_tree(replace(step, text=text + step.text)):
            if isinstance(item, Delta):
                first = first or perf_counter() - started
                num_tokens[item.path, item.sample_index] += len(item.token_ids)
                answer += item.text if item.path == () else ""
        assert step.params is not None
        if first is None or set(num_tokens.values()) != {step.params.max_tokens}:
            raise TreeserveError("a sample did not draw as many tokens as it was asked for")
        firsts.append(first)
        drawn += num_tokens.total()
        text += step.text + answer
    return _Answer(len(chain.steps), drawn, firsts)
