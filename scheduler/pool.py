"""The page pool: which pages are free, and how many holders each of the others has."""

import numpy as np

from treeserve.scheduler.step import Int32Array


class PagePool:
    """A page is free exactly while its count is zero; every holder counts one and gives one back.

    Slot `page * page_size + offset` stores one token.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._counts = np.zeros(num_pages, dtype=np.int32)
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens from a fresh page on."""
        return -(-num_tokens // self.page_size)

    def allocate(self, num_pages: int) -> Int32Array | None:
        """Page ids [num_pages], each held once; None when there is no room."""
        if num_pages > len(self._free):
            return None
        kept = len(self._free) - num_pages
        pages = np.array(self._free[kept:][::-1], dtype=np.int32)
        del self._free[kept:]
        self._counts[pages] = 1
        return pages

    def retain(self, pages: Int32Array) -> None:
        """One more holder for each page; `pages` are distinct and held already."""
        if (self._counts[pages] <= 0).any():
            raise ValueError(f"retained a free page among {pages.tolist()}")
        self._counts[pages] += 1

    def release(self, pages: Int32Array) -> None:
        """One holder less for each page; `pages` are distinct."""
        counts = self._counts[pages] - 1
        if (counts < 0).any():
            raise ValueError(f"released a free page among {pages.tolist()}")
        self._counts[pages] = counts
        self._free.extend(pages[counts == 0].tolist())

    def count(self, page: int) -> int:
        return int(self._counts[page])

    def slots(self, pages: Int32Array) -> Int32Array:
        """Slots [len(pages) * page_size] of whole pages, in order."""
        offsets = np.arange(self.page_size, dtype=np.int32)
        return (pages[:, None] * np.int32(self.page_size) + offsets).reshape(-1)

    def check(self, expected_counts: Int32Array | None = None) -> None:
        """Raises AssertionError unless the books balance.

        Args:
            expected_counts: [num_pages], the holders that are known outside; None: not compared.
        """
        free = np.array(self._free, dtype=np.int64)
        assert len(np.unique(free)) == len(free), "a page is free twice"
        assert (self._counts >= 0).all(), "a page has fewer than no holders"
        expected_free = np.flatnonzero(self._counts == 0)
        assert np.array_equal(np.sort(free), expected_free), "free pages and counts disagree"
        if expected_counts is not None:
            wrong = np.flatnonzero(self._counts != expected_counts)
            assert len(wrong) == 0, f"pages {wrong.tolist()} have holders that nobody knows"
