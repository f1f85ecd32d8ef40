"""How often trunks have to be computed again, whatever the router, if the load is to be even."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from treeserve.simulation.trace import TraceRequest


@dataclass(frozen=True, slots=True)
class LeastCopies:
    """Of a trace on a cluster."""

    num_trunks: int
    num_copies: int
    """Of all trunks, the first of each among them."""
    again_tokens: int
    """Of all copies but the first ones."""


def least_copies(
    trace: Sequence[TraceRequest], num_replicas: int, imbalance: float = 1.2
) -> LeastCopies:
    """A lower bound: what is under a trunk needs so many replicas that none has too much to do.

    A trunk is what all requests have in common that start with one block. Work is tokens that are
    computed once, and tokens that are drawn. What balance costs beyond that is the router's, which
    does not know what comes next.

    Args:
        trace: Parents before their children.
        num_replicas: Of the cluster.
        imbalance: The most that a replica may do, over the mean.
    """
    roots: dict[str, TraceRequest] = {}
    work: Counter[tuple[str, int]] = Counter()
    trunks: dict[tuple[str, int], list[TraceRequest]] = defaultdict(list)
    for request in trace:
        root = request if request.parent is None else roots[request.parent]
        roots[request.request_id] = root
        trunk = root.tenant, root.block_ids[0]
        work[trunk] += request.input_length + sum(request.output_lengths)
        if request is root:
            trunks[trunk].append(request)
    sizes = {trunk: _num_common(requests) for trunk, requests in trunks.items()}
    for trunk, requests in trunks.items():
        work[trunk] -= sizes[trunk] * (len(requests) - 1)
    most = imbalance * work.total() / num_replicas
    copies = {trunk: math.ceil(work[trunk] / most) for trunk in trunks}
    again = sum(sizes[trunk] * (copies[trunk] - 1) for trunk in trunks)
    return LeastCopies(len(trunks), sum(copies.values()), again)


def _num_common(requests: Iterable[TraceRequest]) -> int:
    """Tokens of the blocks that all of them start with."""
    first, *others = requests
    common = len(first.block_ids)
    for other in others:
        same = [a == b for a, b in zip(first.block_ids[:common], other.block_ids, strict=False)]
        common = same.index(False) if False in same else len(same)
    return min(common * first.block_size, first.input_length)
