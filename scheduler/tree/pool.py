"""The page pool: which pages are free, and how many holders each of the others has."""

import numpy as np

from treeserve.scheduler.step import Int32Array


class PagePool:
    """A page is free exactly while its count is zero; every holder counts one and gives one back.

    Slot `page * page_size + offset` stores one token. Free pages are a stack, the first
    `num_free` entries of an array, so that taking many costs one copy.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_free = num_pages
        self._counts = np.zeros(num_pages, dtype=np.int32)
        self._free = np.arange(num_pages - 1, -1, -1, dtype=np.int32)
        self._offsets = np.arange(page_size, dtype=np.int32)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens from a fresh page on."""
        return -(-num_tokens // self.page_size)

    def allocate(self, num_pages: int) -> Int32Array | None:
        """Page ids [num_pages], each held once; None when there is no room."""
        num_left = self.num_free - num_pages
        if num_left < 0:
            return None
        pages = self._free[num_left : self.num_free][::-1].copy()
        self.num_free = num_left
        self._counts[pages] = 1
        return pages

    def retain(self, pages: Int32Array) -> None:
        """One more holder for each page; `pages` are distinct and held already."""
        counts = self._counts[pages]
        if (counts <= 0).any():
            raise ValueError(f"retained a free page among {pages.tolist()}")
        self._counts[pages] = counts + 1

    def release(self, pages: Int32Array) -> None:
        """One holder less for each page; `pages` are distinct."""
        counts = self._counts[pages] - 1
        if (counts < 0).any():
            raise ValueError(f"released a free page among {pages.tolist()}")
        self._counts[pages] = counts
        freed = pages[counts == 0]
        self._free[self.num_free : self.num_free + len(freed)] = freed
        self.num_free += len(freed)

    def release_shared(self, pages: Int32Array) -> None:
        """One holder less for each time a page is named; another holder is left to all of them."""
        np.subtract.at(self._counts, pages, 1)
        if (self._counts[pages] <= 0).any():
            np.add.at(self._counts, pages, 1)
            raise ValueError(f"released the last holder of a page among {pages.tolist()}")

    def count(self, page: int) -> int:
        return int(self._counts[page])

    def counts(self) -> Int32Array:
        """[num_pages]: the holders of each page."""
        return self._counts.copy()

    def slots(self, pages: Int32Array) -> Int32Array:
        """Slots [len(pages) * page_size] of whole pages, in order."""
        return (pages[:, None] * np.int32(self.page_size) + self._offsets).reshape(-1)

    def check(self, expected_counts: Int32Array | None = None) -> None:
        """Raises AssertionError unless the books balance.

        Args:
            expected_counts: [num_pages], the holders that are known outside; None: not compared.
        """
        free = np.sort(self._free[: self.num_free])
        assert (np.diff(free) > 0).all(), "a page is free twice"
        assert (self._counts >= 0).all(), "a page has fewer than no holders"
        expected_free = np.flatnonzero(self._counts == 0)
        assert np.array_equal(free, expected_free), "free pages and counts disagree"
        if expected_counts is not None:
            wrong = np.flatnonzero(self._counts != expected_counts)
            assert len(wrong) == 0, f"pages {wrong.tolist()} have holders that nobody knows"
