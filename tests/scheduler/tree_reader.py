"""Who reads a path of the tree in its tests, and tokens named by their whole past."""

from dataclasses import dataclass, field

import numpy as np

from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.segment import Segment

Way = tuple[tuple[str, int], ...]
"""(namespace, token) from position 0 on: one token that the tree may hold, by its whole past."""


def way_of(wanted: Prefix) -> Way:
    return tuple((wanted.zone(i)[0], t) for i, t in enumerate(wanted.tokens.tolist()))


def ways_between(way: Way, start: int) -> set[Way]:
    return {way[: i + 1] for i in range(start, len(way))}


@dataclass(eq=False)
class Reader:
    """A pinned leaf, and a tail behind it whose first slot may lie anywhere in its first page."""

    leaf: Segment
    way: Way
    namespace: str
    drawn: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    num_computed: int = 0

    def page_ids(self) -> np.ndarray:
        return np.array(self.pages, dtype=np.int32)

    def way_after(self, num_drawn: int) -> Way:
        return (*self.way, *((self.namespace, t) for t in self.drawn[:num_drawn]))
