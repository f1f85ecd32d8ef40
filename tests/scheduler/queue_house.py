"""A waiting queue over a real tree, and requests that stay in it until they are ended."""

from dataclasses import dataclass

import numpy as np

from treeserve.scheduler.queue.policy import QueueTuning
from treeserve.scheduler.queue.waiting_queue import WaitingQueue
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, eq=False)
class WaitingRequest:
    """What the queue asks a request."""

    request_id: str
    prefix: Prefix
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None
    arrived_at: float = 0.0
    num_samples: int = 1
    num_output_tokens: int = 16


def run_of(start: int, length: int) -> list[int]:
    """Tokens that no run with another start of the same thousand shares."""
    return list(range(start * 1000, start * 1000 + length))


class QueueHouse:
    """Admits as the scheduler does: match, pin, insert what is missing, remove."""

    def __init__(
        self, policy="tree", *, num_pages=4096, page_size=4, weights=None, tuning=None
    ) -> None:
        self.pool = PagePool(num_pages, page_size)
        self.tree = RadixTree(self.pool, KeptLogits(2), clock=lambda: 0.0)
        self.tuning = tuning or QueueTuning()
        self.queue = WaitingQueue(policy, self.tree, weights or {}, self.tuning)
        self.leaves: dict[str, Segment] = {}
        self.num_pushed = 0

    def push(self, tokens, at=0.0, *, namespace="", num_public=0, **fields) -> str:
        request_id = fields.pop("request_id", f"r{self.num_pushed}")
        self.num_pushed += 1
        prefix = Prefix(np.array(tokens, dtype=np.int32), namespace, num_public)
        self.queue.push(WaitingRequest(request_id, prefix, arrived_at=at, **fields), at)
        return request_id

    def admit(self, request) -> bool:
        """False when there is no room."""
        matched = self.tree.match(request.prefix)
        self.tree.pin(matched)
        leaf = matched
        if matched.end_position < len(request.prefix):
            inserted = self.tree.insert_pending(matched, request.prefix)
            if inserted is None:
                self.tree.unpin(matched)
                return False
            leaf = inserted
            self.tree.pin(leaf)
            self.tree.unpin(matched)
        self.leaves[request.request_id] = leaf
        self.queue.remove(request.request_id)
        return True

    def next(self, now=0.0) -> str | None:
        """Admits one; its id."""
        for request in self.queue.candidates(now):
            if self.admit(request):
                return request.request_id
        return None

    def order(self, now=0.0) -> list[str]:
        """Admits all that fit, in one pass."""
        return [r.request_id for r in self.queue.candidates(now) if self.admit(r)]

    def compute(self, request_id: str) -> None:
        """The request's path is computed now."""
        segment = self.leaves[request_id]
        while segment.parent is not None:
            self.tree.mark_computed(segment, len(segment))
            segment = segment.parent

    def end(self, request_id: str, *, computed=True) -> None:
        if computed:
            self.compute(request_id)
        self.tree.unpin(self.leaves.pop(request_id))

    def cache(self, tokens, **fields) -> None:
        """Leaves the tokens computed and unpinned in the tree."""
        request_id = self.push(tokens, **fields)
        request = self.queue.get(request_id)
        assert self.admit(request)
        self.end(request_id)

    def check(self) -> None:
        self.queue.check()
        self.tree.check()
