"""What a decision of the router takes, with many replicas and many tokens cached."""

import gc
import random
import resource
import sys
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter, thread_time
from typing import Any

import numpy as np

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.held_prefixes import TokenIds
from treeserve.cluster.router import ReplicaStats, RoutedRequest, Router
from treeserve.simulation.cluster import replica_ids

_TRUNK_TOKENS, _OWN_TOKENS, _DRAWN_TOKENS = 1536, 100, 240
_TRUNKS_PER_REPLICA = 2
_OPEN_PER_REPLICA = 20
_CAPACITY_TOKENS = 320_000
_REPORTS_EVERY = 40
"""Decisions between two replicas' reports: a cluster of 1,024 with 40,000 requests a second."""


def measure_decisions(
    num_replicas: int, cached_tokens: int, num_decisions: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Milliseconds of choosing a replica and noting it, in one thread, with the garbage collector.

    Requests are chats: a system prompt, some asked far more often than others, and either a
    question or a turn that continues an answer.

    Args:
        num_replicas: Of the cluster.
        cached_tokens: That the router's tree holds before anything is measured, each counted once.
        num_decisions: That are measured.
        tell: What is done now.
    """
    before = _peak_bytes()
    tell(f"{num_replicas} replicas: filling the tree")
    chats = _Chats(num_replicas)
    while chats.router.held.num_tokens < cached_tokens:
        chats.send()
    memory = _peak_bytes() - before - chats.num_kept_bytes()
    held = chats.router.held
    filled = {
        "cached_tokens": held.num_tokens,
        "held_tokens": sum(held.num_held(index) for index in range(num_replicas)),
        "num_nodes": held.num_nodes,
        "memory_bytes": memory,
    }
    gc.collect()
    tell(f"{num_replicas} replicas: timing decisions")
    times = [chats.send() for _ in range(num_decisions)]
    wall, cpu = (np.array(values) * 1e3 for values in zip(*times, strict=True))
    return {
        "num_replicas": num_replicas,
        **filled,
        "num_decisions": num_decisions,
        "wall_ms": _percentiles(wall),
        "cpu_ms": _percentiles(cpu),
    }


class _Chats:
    """Requests without an end, a part of which is open at each time."""

    def __init__(self, num_replicas: int) -> None:
        self._ids = replica_ids(num_replicas)
        self.router = Router(RouterConfig())
        self.router.update_replicas(self._ids)
        self._random = random.Random(0)
        self._tokens = np.random.default_rng(0)
        num_trunks = _TRUNKS_PER_REPLICA * num_replicas
        self._trunks = [self._draw(_TRUNK_TOKENS) for _ in range(num_trunks)]
        weights = np.cumsum([1 / (1 + rank) for rank in range(num_trunks)])
        self._weights: Sequence[float] = weights.tolist()
        self._open: deque[tuple[str, TokenIds]] = deque()
        self._answered: deque[TokenIds] = deque(maxlen=_OPEN_PER_REPLICA * num_replicas)
        self._num_sent = 0

    def send(self) -> tuple[float, float]:
        """One request; seconds of real and of CPU time of its decision."""
        if len(self._open) >= _OPEN_PER_REPLICA * len(self._ids):
            self._end()
        self._num_sent += 1
        name = str(self._num_sent)
        request = RoutedRequest(name, "", self._prompt(), 256, name)
        started, cpu_started = perf_counter(), thread_time()
        route = self.router.choose(request)
        self.router.routed(request, route.replica_id)
        times = perf_counter() - started, thread_time() - cpu_started
        self._open.append((name, request.tokens))
        if self._num_sent % _REPORTS_EVERY == 0:
            self._report(self._ids[self._num_sent // _REPORTS_EVERY % len(self._ids)])
        return times

    def num_kept_bytes(self) -> int:
        """Of tokens that are kept here, and not by the router."""
        prompts = [*self._trunks, *self._answered, *(prompt for _, prompt in self._open)]
        return sum(prompt.nbytes for prompt in prompts)

    def _prompt(self) -> TokenIds:
        if self._answered and self._random.random() < 0.5:
            above = self._answered.popleft()
        else:
            [above] = self._random.choices(self._trunks, cum_weights=self._weights)
        return np.concatenate([above, self._draw(_OWN_TOKENS)])

    def _end(self) -> None:
        name, prompt = self._open.popleft()
        answered = np.concatenate([prompt, self._draw(_DRAWN_TOKENS)])
        self.router.completed(name)
        self.router.drew("", name, answered)
        self._answered.append(answered)

    def _report(self, replica_id: str) -> None:
        cached = self.router.held.num_held(int(replica_id))
        self.router.report(replica_id, ReplicaStats("first", cached, _CAPACITY_TOKENS))

    def _draw(self, num_tokens: int) -> TokenIds:
        return self._tokens.integers(0, 1 << 17, num_tokens, dtype=np.int32)


def _percentiles(values: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[str, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": float(p50), "p99": float(p99), "worst": float(values.max())}


def _peak_bytes() -> int:
    """Of memory that this process has had at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
