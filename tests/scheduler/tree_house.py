"""A pool, a table, a clock and a tree, with shortcuts for what the scheduler does to them."""

from collections.abc import Sequence

import numpy as np

from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Segment

PAGE = 4


def tokens(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def prefix(values: Sequence[int], namespace: str = "", num_public: int = 0) -> Prefix:
    return Prefix(tokens(*values), namespace, num_public)


class Watcher:
    """Keeps the tree's shape by what it is told alone."""

    def __init__(self) -> None:
        self.parents: dict[Segment, Segment] = {}
        self.ends: dict[Segment, int] = {}
        self.events: list[str] = []

    def attached(self, segment: Segment) -> None:
        assert segment not in self.parents
        self._note("attached", segment)
        self.parents[segment] = segment.parent

    def split(self, upper: Segment, lower: Segment) -> None:
        assert upper.parent is self.parents[lower]
        assert lower.parent is upper
        self._note("split", upper)
        self.parents[upper], self.parents[lower] = upper.parent, upper

    def detached(self, segment: Segment, parent: Segment) -> None:
        assert segment.parent is None
        assert self.parents.pop(segment) is parent
        assert segment not in self.parents.values(), "detached with children"
        self._note("detached", segment)
        del self.ends[segment]

    def truncated(self, segment: Segment) -> None:
        assert segment.end_position < self.ends[segment]
        assert segment not in self.parents.values(), "truncated with children"
        self._note("truncated", segment)

    def _note(self, event: str, segment: Segment) -> None:
        self.events.append(event)
        self.ends[segment] = segment.end_position


class House:
    """`tails` are the pages that somebody outside of the tree holds."""

    def __init__(self, num_pages: int = 64, page_size: int = PAGE, budget: int = 0) -> None:
        self.now = 1000.0
        self.pool = PagePool(num_pages, page_size)
        self.kept = KeptLogits(2)
        self.tree = RadixTree(
            self.pool, self.kept, clock=lambda: self.now, retention_budget_tokens=budget
        )
        self.watcher = Watcher()
        self.tree.watch(self.watcher)
        self.tails: list[np.ndarray] = []

    def attach(
        self, values: Sequence[int], *, computed: bool = True, namespace: str = "", public: int = 0
    ) -> Segment:
        """Pins the prompt's path, as one request would; returns its leaf."""
        leaf = self.attach_prefix(prefix(values, namespace, public), computed=computed)
        self.check()
        return leaf

    def attach_prefix(self, wanted: Prefix, *, computed: bool = True) -> Segment:
        matched = self.tree.match(wanted)
        self.tree.pin(matched)
        leaf = matched
        if matched.end_position < len(wanted):
            inserted = self.tree.insert_pending(matched, wanted)
            assert inserted is not None
            leaf = inserted
        self.tree.pin(leaf)
        self.tree.unpin(matched)
        self.tree.count_hit(leaf)
        if computed:
            self.compute(leaf)
        return leaf

    def compute(self, leaf: Segment) -> None:
        segment: Segment | None = leaf
        while segment is not None:
            self.tree.mark_computed(segment, len(segment))
            segment = segment.parent

    def cache(self, values: Sequence[int], *, namespace: str = "", public: int = 0) -> None:
        self.tree.unpin(self.attach(values, namespace=namespace, public=public))
        self.check()

    def num_cached(self, values: Sequence[int], namespace: str = "", public: int = 0) -> int:
        return self.tree.locate(prefix(values, namespace, public)).num_computed

    def check(self) -> None:
        self.tree.check()
        held = self.tree.held_counts()
        for pages in self.tails:
            held[pages] += 1
        self.pool.check(held)
        segments = self.tree.segments()
        assert self.watcher.parents == {s: s.parent for s in segments}, "an event is missing"
