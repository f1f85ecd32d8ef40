"""The tail: what one sample has drawn after its leaf, and the slots of its own."""

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.pool import PagePool

_EMPTY = np.zeros(0, dtype=np.int32)


class Tail:
    """Private and growing: token k sits at position `start_position + k`, in slot k.

    KV is computed for all tokens but the last drawn one, which the next step computes; while that
    one is an `unread_token`, the step that draws it and computes the one before is on its way.
    Nobody else writes to its pages; after a fork its first page may also be held by the tree, which
    reads the slots before the tail's first one.
    """

    __slots__ = (
        "max_tokens",
        "page_slots",
        "pages",
        "promised_pages",
        "start_position",
        "tokens",
    )

    def __init__(self, start_position: int, max_tokens: int, promised_pages: int) -> None:
        self.start_position = start_position
        self.max_tokens = max_tokens
        """The sample ends when it holds so many."""
        self.promised_pages = promised_pages
        """Pages, those that it has among them, that are kept free for it."""
        self.tokens: list[int] = []
        self.pages = _EMPTY
        self.page_slots = _EMPTY
        """All slots of its pages, from the first token's on."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_computed(self) -> int:
        return max(0, len(self.tokens) - 1)

    @property
    def is_full(self) -> bool:
        """Whether its last token is the sample's last."""
        return len(self.tokens) == self.max_tokens

    @property
    def is_unread(self) -> bool:
        """Whether nobody knows yet what its last token is."""
        return bool(self.tokens) and self.tokens[-1] < 0

    @property
    def read_tokens(self) -> list[int]:
        """All of them, or all but the last one."""
        return self.tokens[:-1] if self.is_unread else self.tokens

    @property
    def end_position(self) -> int:
        """One after the last drawn token's."""
        return self.start_position + len(self.tokens)

    @property
    def num_outstanding_pages(self) -> int:
        """Promised and not yet asked for."""
        return max(0, self.promised_pages - len(self.pages))

    @property
    def may_outgrow_promise(self) -> bool:
        """Whether the next page that it asks for was not promised; it may need no other."""
        return self.num_outstanding_pages == 0 and len(self.page_slots) < self.max_tokens - 1

    @property
    def needs_page(self) -> bool:
        """Whether the last drawn token has no slot yet."""
        return len(self.tokens) > len(self.page_slots)

    @property
    def slots(self) -> Int32Array:
        """[num_tokens], fewer by one while the last drawn token needs a page."""
        return self.page_slots[: len(self.tokens)]

    def grow(self, pages: Int32Array, slots: Int32Array) -> None:
        """Fresh pages, and all slots of them."""
        self.pages = np.concatenate([self.pages, pages])
        self.page_slots = np.concatenate([self.page_slots, slots])

    def drop_first(self, num_tokens: int, pool: PagePool) -> None:
        """The first tokens now belong to the tree, which holds their pages itself.

        What is left of the last one's page stays, so the tail needs no more pages than before.
        """
        num_slots = len(self.pages) * pool.page_size
        offset = num_slots - len(self.page_slots) + num_tokens
        num_pages = offset // pool.page_size
        outstanding = self.num_outstanding_pages
        pool.release(self.pages[:num_pages])
        self.pages = self.pages[num_pages:]
        self.page_slots = self.page_slots[num_tokens:]
        self.tokens = self.tokens[num_tokens:]
        self.max_tokens -= num_tokens
        self.start_position += num_tokens
        self.promised_pages = len(self.pages) + outstanding

    def computed_tokens(self) -> Int32Array:
        return np.array(self.tokens[: self.num_computed], dtype=np.int32)

    def computed_slots(self) -> Int32Array:
        return self.page_slots[: self.num_computed]

    def check(self, page_size: int) -> None:
        """Raises AssertionError unless slots, pages and tokens agree."""
        missing = len(self.pages) * page_size - len(self.page_slots)
        assert 0 <= missing < page_size, "slots and pages of a tail differ"
        assert self.is_unread or not self.is_full, "a tail outlived its last token"
        assert all(token >= 0 for token in self.read_tokens), "an unread token is not the last"
        assert len(self.tokens) <= len(self.page_slots) + 1, "a tail has tokens without slots"
        pages = sorted(set((self.page_slots // page_size).tolist()))
        assert pages == sorted(self.pages.tolist()), "a tail's slots are in other pages"
