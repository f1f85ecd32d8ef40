"""The tree's books over pages: how many segments hold each one, and which nobody needs."""

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.pool import PagePool


class PageHolders:
    """A page is evictable while segments hold it and none of them is pinned.

    The segments that hold one page lie on one path, so the uppermost of them is the last to go.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_evictable = 0
        self.held = np.zeros(num_pages, dtype=np.int32)
        self.pinned = np.zeros(num_pages, dtype=np.int32)

    @property
    def num_held(self) -> int:
        return int(np.count_nonzero(self.held))

    def attach(self, pages: Int32Array) -> None:
        """A new segment, not pinned, holds these distinct pages."""
        counts = self.held[pages]
        self.held[pages] = counts + 1
        self.num_evictable += int(np.count_nonzero(counts == 0))

    def straddle(self, pages: Int32Array, *, is_pinned: bool) -> None:
        """A split: one segment more holds these, pinned just as the one that held them."""
        self.held[pages] += 1
        self.pinned[pages] += int(is_pinned)

    def pin(self, pages: Int32Array) -> None:
        """Segments become pinned; a page is named once for each of them that holds it."""
        fresh = pages[self.pinned[pages] == 0]
        np.add.at(self.pinned, pages, 1)
        self.num_evictable -= len(np.unique(fresh))

    def unpin(self, pages: Int32Array) -> None:
        """Undoes `pin`."""
        np.subtract.at(self.pinned, pages, 1)
        self.num_evictable += len(np.unique(pages[self.pinned[pages] == 0]))

    def drop(self, pages: Int32Array) -> None:
        """The last segments that held these distinct pages are gone; they were not pinned."""
        self.held[pages] = 0
        self.num_evictable -= len(pages)

    def drop_shared(self, pages: Int32Array) -> None:
        """One segment less for each time a page is named; all of them are still held."""
        np.subtract.at(self.held, pages, 1)

    def check(self, held: Int32Array, pinned: Int32Array) -> None:
        """Raises AssertionError unless the books are what was counted anew."""
        assert np.array_equal(held, self.held), "held pages and segments disagree"
        assert np.array_equal(pinned, self.pinned), "pinned pages and segments disagree"
        evictable = int(((held > 0) & (pinned == 0)).sum())
        assert evictable == self.num_evictable, "evictable pages are miscounted"


class PageDrop:
    """Pages that segments gave up, one after the other, and that are given back together."""

    def __init__(self, holders: PageHolders, pool: PagePool) -> None:
        self._holders = holders
        self._pool = pool
        self._last: list[Int32Array] = []
        self._shared: dict[int, int] = {}

    def add(self, pages: Int32Array) -> int:
        """Pages of one unpinned leaf, or its last ones; how many of them come free.

        Only the first one can still be held by others: by segments above.
        """
        if not len(pages):
            return 0
        first = int(pages[0])
        num_dropped = self._shared.get(first, 0)
        if int(self._holders.held[first]) - num_dropped > 1:
            self._shared[first] = num_dropped + 1
            pages = pages[1:]
        self._last.append(pages)
        return len(pages)

    def give_back(self) -> None:
        """Once, at the end."""
        if self._shared:
            shared = np.array(list(self._shared), dtype=np.int32)
            shared = shared.repeat(list(self._shared.values()))
            self._holders.drop_shared(shared)
            self._pool.release_shared(shared)
        if self._last:
            last = np.concatenate(self._last)
            self._holders.drop(last)
            self._pool.release(last)
