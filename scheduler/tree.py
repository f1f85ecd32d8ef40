"""The radix tree over token ids: what is cached, what is pending, and what may be evicted."""

from dataclasses import dataclass

import numpy as np
from sortedcontainers import SortedKeyList

from treeserve.scheduler.kept import KeptLogits
from treeserve.scheduler.pool import PagePool
from treeserve.scheduler.segment import Root, Segment
from treeserve.scheduler.step import Int32Array

_EMPTY = np.zeros(0, dtype=np.int32)


class RadixTree:
    """Tokens in, segments out; it knows no requests.

    A pin on a segment is a pin on all its ancestors. Unpinned segments are never pending, and the
    leaves among them are in the eviction order, least recently used first. `num_evictable_pages`
    counts the pages that only unpinned segments hold.
    """

    def __init__(self, pool: PagePool, kept: KeptLogits) -> None:
        self._pool = pool
        self._kept = kept
        self._roots: dict[str, Root] = {}
        self._order = SortedKeyList(key=_eviction_key)
        self._clock = 0
        self._next_serial = 1
        self._held = np.zeros(pool.num_pages, dtype=np.int32)
        self._pinned = np.zeros(pool.num_pages, dtype=np.int32)
        self.num_evictable_pages = 0
        self.num_evicted_tokens = 0

    def match(self, namespace: str, tokens: Int32Array) -> Segment:
        """The segment that ends where the longest known prefix of `tokens` ends.

        Splits the segment in which the match ends. Pending tokens match too. The root when nothing
        matches.
        """
        root = self._roots.get(namespace)
        if root is None:
            return Root(namespace, _EMPTY)
        descent = _descend(root, tokens)
        if descent.partial is None:
            return descent.segment
        return self.split(descent.partial, descent.num_partial)

    def count_computed(self, namespace: str, tokens: Int32Array) -> int:
        """Length of the longest prefix of `tokens` whose KV is computed; changes nothing."""
        root = self._roots.get(namespace)
        if root is None:
            return 0
        descent = _descend(root, tokens)
        if descent.partial is not None and descent.partial.num_computed > 0:
            num_partial = min(descent.num_partial, descent.partial.num_computed)
            return descent.segment.end_position + num_partial
        segment = descent.segment
        while segment.parent is not None and segment.num_computed == 0:
            segment = segment.parent
        return segment.start_position + segment.num_computed

    def insert_pending(self, parent: Segment, tokens: Int32Array) -> Segment | None:
        """A new child for tokens that are known and not yet computed, from a fresh page on.

        `parent` is the pinned end of a match, or a root, and no child of it starts with
        `tokens[0]`. Evicts as needed; None when there is no room. Pin the child at once.
        """
        pages = self.allocate(self._pool.pages_for(len(tokens)))
        if pages is None:
            return None
        slots = self._pool.slots(pages)[: len(tokens)]
        return self._attach(parent, tokens.copy(), slots, pages, num_computed=0)

    def extend(
        self, segment: Segment, tokens: Int32Array, slots: Int32Array, pages: Int32Array
    ) -> int:
        """Caches computed tokens that follow a segment; returns how many the tree did not hold.

        Token j is in `slots[j]`, the first slot starts `pages[0]`. Takes references of its own on
        the pages that it keeps. Keeps nothing beyond tokens that another is still computing.
        """
        descent = _descend(segment, tokens)
        at, num_held = descent.segment, descent.segment.end_position - segment.end_position
        if at is not segment and at.is_pending:
            return 0
        if descent.partial is not None:
            if descent.num_partial > descent.partial.num_computed:
                return 0
            num_held += descent.num_partial
            if num_held < len(tokens):
                at = self.split(descent.partial, descent.num_partial)
        num_new = len(tokens) - num_held
        if num_new > 0:
            first_page = num_held // self._pool.page_size
            kept_pages = pages[first_page : self._pool.pages_for(len(tokens))]
            self._pool.retain(kept_pages)
            at = self._attach(at, tokens[num_held:], slots[num_held:], kept_pages, num_new)
        self._touch(at)
        return num_new

    def split(self, segment: Segment, num_tokens: int) -> Segment:
        """Puts the first `num_tokens` tokens into a new segment above; returns the new one.

        Nothing is copied or moved: both read the same pages, and one that lies in both is held by
        both. The lower part stays the same object, so whoever holds it as a leaf sees the split.
        """
        if not 0 < num_tokens < len(segment):
            raise ValueError(f"cannot split {segment} after {num_tokens} tokens")
        assert segment.parent is not None
        offset = int(segment.slots[0]) % self._pool.page_size + num_tokens
        straddled = segment.pages[offset // self._pool.page_size :][:1]
        straddled = straddled if offset % self._pool.page_size else straddled[:0]
        upper = Segment(
            parent=segment.parent,
            tokens=segment.tokens[:num_tokens],
            slots=segment.slots[:num_tokens],
            pages=segment.pages[: self._pool.pages_for(offset)],
            start_position=segment.start_position,
            num_computed=min(segment.num_computed, num_tokens),
            serial=self._take_serial(),
        )
        upper.pins, upper.last_used = segment.pins, segment.last_used
        self._pool.retain(straddled)
        self._count_holders(straddled, held=1, pinned=1 if segment.pins else 0)
        segment.parent.children[int(upper.tokens[0])] = upper
        segment.parent = upper
        segment.pages = segment.pages[offset // self._pool.page_size :]
        segment.num_computed = max(0, segment.num_computed - num_tokens)
        segment.start_position += num_tokens
        segment.tokens, segment.slots = segment.tokens[num_tokens:], segment.slots[num_tokens:]
        upper.children[int(segment.tokens[0])] = segment
        return upper

    def pin(self, leaf: Segment) -> None:
        """Keeps the segment and all its ancestors from being evicted."""
        segment = leaf
        while segment.parent is not None:
            if segment.pins == 0:
                self._order.discard(segment)
                self._count_holders(segment.pages, held=0, pinned=1)
            segment.pins += 1
            segment = segment.parent

    def unpin(self, leaf: Segment) -> None:
        """Undoes one pin. Tokens that nobody is going to compute any more leave the tree."""
        self._clock += 1
        segment = leaf
        while segment.parent is not None:
            parent = segment.parent
            if segment.pins <= 0:
                raise ValueError(f"{segment} is not pinned")
            segment.pins -= 1
            if segment.pins == 0:
                segment.last_used = self._clock
                self._count_holders(segment.pages, held=0, pinned=-1)
                self._settle(segment)
            segment = parent

    def evict(self, num_pages: int) -> int:
        """Drops least recently used leaves until `num_pages` pages came free; returns how many."""
        before = self._pool.num_free
        while self._pool.num_free - before < num_pages and self._order:
            segment: Segment = self._order.pop(0)
            self.num_evicted_tokens += len(segment)
            self._detach(segment)
        return self._pool.num_free - before

    def allocate(self, num_pages: int) -> Int32Array | None:
        """Pages from the pool, evicting as needed; None when there is no room."""
        if num_pages > self._pool.num_free + self.num_evictable_pages:
            return None
        if num_pages > self._pool.num_free:
            self.evict(num_pages - self._pool.num_free)
        return self._pool.allocate(num_pages)

    def clear(self) -> int:
        """Evicts everything that is not pinned; returns the number of tokens."""
        before = self.num_evicted_tokens
        while self._order:
            self.evict(self._pool.num_pages)
        return self.num_evicted_tokens - before

    def segments(self) -> list[Segment]:
        """All of them, parents before children, without the roots."""
        found: list[Segment] = []
        stack: list[Segment] = list(self._roots.values())
        while stack:
            segment = stack.pop()
            found.append(segment)
            stack.extend(segment.children.values())
        return [segment for segment in found if not segment.is_root]

    def held_counts(self) -> Int32Array:
        """[num_pages]: the references that segments hold on each page."""
        return self._held.copy()

    def check(self) -> None:
        """Raises AssertionError unless every count and order is what the segments say."""
        held = np.zeros_like(self._held)
        pinned = np.zeros_like(self._pinned)
        segments = self.segments()
        for segment in segments:
            _check_segment(segment, self._pool.page_size)
            held[segment.pages] += 1
            pinned[segment.pages] += 1 if segment.pins else 0
        assert np.array_equal(held, self._held), "held pages and segments disagree"
        assert np.array_equal(pinned, self._pinned), "pinned pages and segments disagree"
        evictable = int(((held > 0) & (pinned == 0)).sum())
        assert evictable == self.num_evictable_pages, "evictable pages are miscounted"
        leaves = {s for s in segments if s.pins == 0 and not s.children}
        assert set(self._order) == leaves, "the eviction order is not the unpinned leaves"
        assert len(self._order) == len(leaves), "a leaf is in the eviction order twice"
        assert all(root.children for root in self._roots.values()), "an empty root is kept"
        self._order._check()
        self._kept.check(segments)

    def _attach(
        self,
        parent: Segment,
        tokens: Int32Array,
        slots: Int32Array,
        pages: Int32Array,
        num_computed: int,
    ) -> Segment:
        if int(tokens[0]) in parent.children:
            raise ValueError(f"{parent} has a child that starts with token {int(tokens[0])}")
        segment = Segment(
            parent=parent,
            tokens=tokens,
            slots=slots,
            pages=pages,
            start_position=parent.end_position,
            num_computed=num_computed,
            serial=self._take_serial(),
        )
        if isinstance(parent, Root):
            self._roots[parent.namespace] = parent
        else:
            self._order.discard(parent)
        parent.children[int(tokens[0])] = segment
        segment.last_used = self._clock
        self._count_holders(pages, held=1, pinned=0)
        self._order.add(segment)
        return segment

    def _detach(self, segment: Segment) -> None:
        parent = segment.parent
        assert parent is not None
        assert not segment.children
        self._kept.forget(segment)
        self._count_holders(segment.pages, held=-1, pinned=0)
        self._pool.release(segment.pages)
        del parent.children[int(segment.tokens[0])]
        segment.parent = None
        if parent.children:
            return
        if isinstance(parent, Root):
            self._roots.pop(parent.namespace, None)
        elif parent.pins == 0:
            self._order.add(parent)

    def _settle(self, segment: Segment) -> None:
        if segment.num_computed == 0:
            self._order.discard(segment)
            self._detach(segment)
            return
        if segment.is_pending:
            self._truncate(segment)
        if not segment.children:
            self._order.add(segment)

    def _truncate(self, segment: Segment) -> None:
        num_tokens = segment.num_computed
        offset = int(segment.slots[0]) % self._pool.page_size + num_tokens
        dropped = segment.pages[self._pool.pages_for(offset) :]
        segment.pages = segment.pages[: self._pool.pages_for(offset)]
        segment.tokens, segment.slots = segment.tokens[:num_tokens], segment.slots[:num_tokens]
        self._count_holders(dropped, held=-1, pinned=0)
        self._pool.release(dropped)

    def _touch(self, segment: Segment) -> None:
        self.pin(segment)
        self.unpin(segment)

    def _count_holders(self, pages: Int32Array, *, held: int, pinned: int) -> None:
        before = np.count_nonzero((self._held[pages] > 0) & (self._pinned[pages] == 0))
        self._held[pages] += held
        self._pinned[pages] += pinned
        after = np.count_nonzero((self._held[pages] > 0) & (self._pinned[pages] == 0))
        self.num_evictable_pages += int(after - before)

    def _take_serial(self) -> int:
        self._next_serial += 1
        return self._next_serial


@dataclass(frozen=True, slots=True)
class _Descent:
    """`segment` matched whole; `num_partial` tokens of its child `partial` matched too."""

    segment: Segment
    partial: Segment | None
    num_partial: int


def _descend(segment: Segment, tokens: Int32Array) -> _Descent:
    position = 0
    while position < len(tokens):
        child = segment.children.get(int(tokens[position]))
        if child is None:
            break
        num_common = _count_common(child.tokens, tokens[position:])
        if num_common < len(child):
            return _Descent(segment, child, num_common)
        position += num_common
        segment = child
    return _Descent(segment, None, 0)


def _count_common(a: Int32Array, b: Int32Array) -> int:
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax())
    return first if different[first] else length


def _eviction_key(segment: Segment) -> tuple[int, int]:
    return (segment.last_used, segment.serial)


def _check_segment(segment: Segment, page_size: int) -> None:
    parent = segment.parent
    assert parent is not None, f"{segment} hangs nowhere"
    assert parent.children.get(int(segment.tokens[0])) is segment, f"{segment} has a false key"
    assert segment.start_position == parent.end_position, f"{segment} leaves a gap"
    assert len(segment.slots) == len(segment.tokens), f"{segment} has tokens without slots"
    assert 0 <= segment.num_computed <= len(segment), f"{segment} computed too much"
    _, first = np.unique(segment.slots // page_size, return_index=True)
    pages = (segment.slots // page_size)[np.sort(first)]
    assert np.array_equal(pages, segment.pages), f"{segment} holds other pages than its slots"
    assert len(np.unique(segment.slots)) == len(segment), f"{segment} uses a slot twice"
    assert segment.pins > 0 or not segment.is_pending, f"{segment} is pending for nobody"
    assert parent.is_root or parent.pins >= segment.pins, f"{segment} is pinned more than above"
    assert segment.num_computed == 0 or not parent.is_pending, f"{segment} outran its parent"
