"""The tail: what one sample has drawn after its prompt, and the slots of its own."""

import numpy as np

from treeserve.scheduler.pool import PagePool
from treeserve.scheduler.step import Int32Array

_EMPTY = np.zeros(0, dtype=np.int32)


class Tail:
    """Private and growing: token k sits at position `start_position + k`, in slot k.

    KV is computed for all tokens but the last drawn one, which the next step computes. Pages are
    fresh ones, at most `max_pages` of them, and shared with nobody.
    """

    __slots__ = ("_slots", "max_pages", "num_computed", "pages", "start_position", "tokens")

    def __init__(self, start_position: int, max_pages: int) -> None:
        self.start_position = start_position
        self.max_pages = max_pages
        self.tokens: list[int] = []
        self.pages = _EMPTY
        self._slots = _EMPTY
        self.num_computed = 0

    @property
    def position(self) -> int:
        """Of the last drawn token."""
        return self.start_position + len(self.tokens) - 1

    @property
    def num_reserved_pages(self) -> int:
        """Pages that it may still ask for."""
        return self.max_pages - len(self.pages)

    @property
    def needs_page(self) -> bool:
        """Whether the last drawn token has no slot yet."""
        return len(self.tokens) > len(self._slots)

    @property
    def slots(self) -> Int32Array:
        """[num_tokens], for the tokens up to the last drawn one."""
        return self._slots[: len(self.tokens)]

    def grow(self, pages: Int32Array, pool: PagePool) -> None:
        self.pages = np.concatenate([self.pages, pages])
        self._slots = np.concatenate([self._slots, pool.slots(pages)])

    def computed_tokens(self) -> Int32Array:
        return np.array(self.tokens[: self.num_computed], dtype=np.int32)

    def computed_slots(self) -> Int32Array:
        return self._slots[: self.num_computed]

    def check(self, page_size: int) -> None:
        """Raises AssertionError unless slots, pages and tokens agree."""
        assert len(self.pages) <= self.max_pages, "a tail outgrew its reservation"
        assert len(self._slots) == len(self.pages) * page_size, "slots and pages of a tail differ"
        assert self.num_computed <= len(self._slots), "a tail computed tokens without slots"
        expected = max(0, len(self.tokens) - 1)
        assert self.num_computed == expected, "all but the last drawn token are computed"
