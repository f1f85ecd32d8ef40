"""The radix tree over token ids: what is cached, what is pending, and what may be evicted."""

import time
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.eviction import EvictionOrder
from treeserve.scheduler.tree.holders import PageDrop
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.listener import TreeListener
from treeserve.scheduler.tree.location import Location, descend, locate_below
from treeserve.scheduler.tree.path import climb_all
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.retention import RetainedPrefix, Retention, require_bias
from treeserve.scheduler.tree.segment import Root, Segment
from treeserve.scheduler.tree.shape import TreeShape
from treeserve.scheduler.tree.snapshot import TreeSnapshot, take_snapshot

EvictionReason: TypeAlias = Literal["room", "clear"]


class RadixTree:
    """Tokens in, segments out; it knows no requests.

    A pin on a segment is a pin on all its ancestors. Unpinned segments are never pending, and the
    leaves among them are in the eviction order. Beneath a public segment every tenant has children
    of its own, which no other tenant matches, sees or splits.
    """

    def __init__(
        self,
        pool: PagePool,
        kept: KeptLogits,
        *,
        clock: Callable[[], float] = time.monotonic,
        retention_budget_tokens: int = 0,
    ) -> None:
        self._pool = pool
        self._kept = kept
        self.clock = clock
        self._order = EvictionOrder(clock, pool.num_pages * pool.page_size)
        self._retention = Retention(self._order, retention_budget_tokens)
        self._shape = TreeShape(pool, kept, self._order, self._retention)
        self._holders = self._shape.holders
        self.evicted_tokens: dict[EvictionReason, int] = {"room": 0, "clear": 0}
        """Computed tokens that left the tree, by what they were evicted for."""
        self.num_pending_tokens = 0
        """Known and not computed: work that somebody waits for."""

    @property
    def num_evictable_pages(self) -> int:
        """Pages that only unpinned segments hold: what `evict` can free."""
        return self._holders.num_evictable

    @property
    def num_evicted_tokens(self) -> int:
        return sum(self.evicted_tokens.values())

    @property
    def num_retained_tokens(self) -> int:
        """Held by the tree and retained, each counted once."""
        return self._retention.num_tokens

    @property
    def retention_budget_tokens(self) -> int:
        """What `num_retained_tokens` may not exceed."""
        return self._retention.budget_tokens

    def watch(self, listener: TreeListener) -> None:
        """Tells the listener of every change from now on, after those that came before it.

        Raises:
            ValueError: It is told already.
        """
        if listener in self._shape.listeners:
            raise ValueError(f"{listener} is told already")
        self._shape.listeners.append(listener)

    def locate(self, prefix: Prefix) -> Location:
        """Where the longest known prefix of it ends, computed or pending; changes nothing."""
        return locate_below(Location(self._shape.root(prefix), 0, 0), prefix)

    def match(self, prefix: Prefix) -> Segment:
        """The segment that ends where the longest known prefix of it ends.

        Splits the segment in which the match ends. Pending tokens match too. Else it is a root.
        """
        return self._segment_ending_at(self.locate(prefix))

    def num_missing_pages(self, matched: Segment, prefix: Prefix) -> int:
        """Pages that `insert_pending` takes after this match: 0 where nothing is missing."""
        return self._pool.pages_for(len(prefix) - matched.end_position)

    def insert_pending(self, matched: Segment, prefix: Prefix) -> Segment | None:
        """Inserts all of the prefix after `matched`, known and not yet computed; the new leaf.

        One segment, or two where the missing part is public first and then private. They fill
        fresh pages, and a page in which the one ends and the other begins is held by both.
        `matched` is the pinned end of a match, or a root. Evicts as needed; None when there is no
        room. Pin the leaf at once.
        """
        start = position = matched.end_position
        if start == len(prefix):
            raise ValueError(f"nothing is missing after {matched}")
        pages = self.allocate(self._pool.pages_for(len(prefix) - start))
        if pages is None:
            return None
        slots, leaf = self._pool.slots(pages), matched
        while position < len(prefix):
            namespace, end = prefix.zone(position)
            own_pages = self._cover(pages, position - start, end - start)
            if (position - start) % self._pool.page_size:
                self._pool.retain(own_pages[:1])
            tokens = prefix.tokens[position:end].copy()
            own_slots = slots[position - start : end - start]
            leaf = self._attach(leaf, tokens, own_slots, own_pages, 0, namespace)
            position = end
        return leaf

    def commit(
        self,
        leaf: Segment,
        tokens: Int32Array,
        slots: Int32Array,
        pages: Int32Array,
        namespace: str,
    ) -> int:
        """Caches computed tokens that follow a pinned leaf; returns how many it did not hold.

        Token j is in `slots[j]`, and the first slot lies in `pages[0]`, anywhere. Takes references
        of its own on the pages that it keeps, and copies. The caller gives its references back
        before the tree is next asked for room, or keeps `leaf` pinned. Keeps nothing beyond tokens
        that another is still computing.
        """
        start = Location(leaf, leaf.end_position, leaf.end_position)
        location = descend(start, tokens, namespace)
        if location.num_computed < location.num_matched:
            return 0
        num_held = location.num_matched - leaf.end_position
        end = location.segment
        if num_held < len(tokens):
            above = self._segment_ending_at(location)
            end = self._append(above, tokens, slots, pages, num_held, len(tokens), namespace)
        self._touch(end)
        return len(tokens) - num_held

    def match_after(self, leaf: Segment, tokens: Int32Array, namespace: str) -> Segment:
        """As `match`, for tokens that follow a pinned leaf; the leaf itself when none matches."""
        end = leaf.end_position
        return self._segment_ending_at(descend(Location(leaf, end, end), tokens, namespace))

    def adopt(
        self,
        leaf: Segment,
        tokens: Int32Array,
        slots: Int32Array,
        pages: Int32Array,
        num_computed: int,
        namespace: str,
    ) -> Segment:
        """Makes tokens of a tail that follow a pinned leaf a path of the tree; returns its end.

        As `commit`, but for all tokens, of which the last need not be computed yet
        (`num_computed` is the number of tokens or one less). What the tree holds already is used,
        be it computed or pending; only the rest stays in the tail's slots. Where another is still
        computing tokens on the way, the rest is pending too, and the caller waits for it.

        No slot has two writers: a pending token keeps the slot that its tail set aside for it,
        whoever computes it writes there, and the tail goes on in the slots after it, in the same
        page if that has any left. Pin the returned segment at once, and keep it pinned as long as
        the tail holds its pages.
        """
        if not 0 <= len(tokens) - num_computed <= 1:
            raise ValueError(f"{num_computed} of {len(tokens)} tokens are computed")
        above = self.match_after(leaf, tokens, namespace)
        num_held = above.end_position - leaf.end_position
        if num_held == len(tokens):
            return above
        num_computed = 0 if above.is_pending else num_computed
        return self._append(above, tokens, slots, pages, num_held, num_computed, namespace)

    def mark_computed(self, segment: Segment, num_computed: int) -> None:
        """The KV of the segment's first tokens is there now."""
        self.num_pending_tokens -= num_computed - segment.num_computed
        segment.num_computed = num_computed

    def pin(self, leaf: Segment) -> None:
        """Keeps the segment, its ancestors and the modules it imports from being evicted."""
        path = climb_all(leaf)
        pages = [segment.pages for segment in path if segment.pins == 0]
        if pages:
            self._holders.pin(np.concatenate(pages))
        for segment in path:
            segment.pins += 1
            self._order.discard(segment)

    def unpin(self, leaf: Segment) -> None:
        """Undoes one pin. Tokens that nobody is going to compute any more leave the tree."""
        path = climb_all(leaf)
        if any(segment.pins <= 0 for segment in path):
            raise ValueError(f"{leaf} is not pinned")
        settled = [segment for segment in path if segment.pins == 1]
        if settled:
            self._holders.unpin(np.concatenate([segment.pages for segment in settled]))
            self._order.touch(settled)
        drop = self._shape.start_drop()
        for segment in path:
            segment.pins -= 1
            if segment.pins == 0:
                self._settle(segment, drop)
        drop.give_back()

    def count_hit(self, leaf: Segment) -> None:
        """One more request has this path, which is worth more from now on; once a request."""
        for segment in climb_all(leaf):
            segment.hits += 1
            self._order.rerank(segment)

    def evict(self, num_pages: int) -> int:
        """Drops the least valuable tokens until `num_pages` pages came free; returns how many.

        The last leaf to go loses only as many pages as are needed, from its end.
        """
        before, num_left = self._pool.num_free, num_pages
        drop = self._shape.start_drop()
        while num_left > 0 and (segment := self._order.least()) is not None:
            self._order.age(segment)
            num_left -= self._evict_from(segment, num_left, drop)
        drop.give_back()
        return self._pool.num_free - before

    def allocate(self, num_pages: int) -> Int32Array | None:
        """Pages from the pool, evicting as needed; None when there is no room."""
        num_short = num_pages - self._pool.num_free
        if num_short > self._holders.num_evictable:
            return None
        if num_short > 0:
            self.evict(num_short)
        return self._pool.allocate(num_pages)

    def clear(self) -> int:
        """Evicts everything that is not pinned, retained or not; returns the number of tokens."""
        before = self.evicted_tokens["clear"]
        drop = self._shape.start_drop()
        while (segment := self._order.least()) is not None:
            self.evicted_tokens["clear"] += len(segment)
            self._shape.detach(segment, drop)
        drop.give_back()
        return self.evicted_tokens["clear"] - before

    def retain(self, prefix: Prefix, weight: float, ttl_seconds: float) -> RetainedPrefix:
        """Makes what the tree holds of the prefix worth more until the time to live has passed.

        A bias and not a lock. What is evicted, or was not there yet, is retained when it is
        computed while the time lasts, as far as the budget goes then.

        Raises:
            InvalidRequest: Over the budget (OverBudget), or weight or time are not positive.
        """
        require_bias(weight, ttl_seconds)
        location = self.locate(prefix)
        self._retention.require_room(location)
        root = self._shape.root(prefix)
        retained = self._retention.open(root, prefix, weight, self.clock() + ttl_seconds)
        self._retention.reach(retained, self._segment_ending_at(location))
        return retained.record()

    def release_retained(self, retained_id: int) -> bool:
        """Ends a retention before its time; False where there is none with this id (any more)."""
        return self._retention.release(retained_id)

    def retained(self) -> tuple[RetainedPrefix, ...]:
        """All that are alive, oldest first."""
        return self._retention.records()

    def expire(self, now: float) -> tuple[int, ...]:
        """Ends the retentions whose time is over, at a cost of what ends; returns their ids."""
        return self._retention.expire(now)

    def snapshot(self, *, include_tokens: bool = False) -> TreeSnapshot:
        """What the tree holds, in plain data; in proportion to all that is cached."""
        return take_snapshot(
            self.segments(),
            self.clock(),
            max_fan_out=max((len(root.children) for root in self._shape.roots()), default=0),
            num_pages=self._holders.num_held,
            num_evictable_pages=self._holders.num_evictable,
            num_retained_tokens=self._retention.num_tokens,
            include_tokens=include_tokens,
        )

    def split(self, segment: Segment, num_tokens: int) -> Segment:
        """Puts the first `num_tokens` tokens into a new segment above; returns the new one.

        Nothing is copied or moved: both read the same pages, and one that lies in both is held by
        both. The lower part stays the same object, so whoever holds it as a leaf sees the split.
        """
        return self._shape.split(segment, num_tokens)

    def roots(self) -> list[Root]:
        """Those with children, one for each namespace."""
        return self._shape.roots()

    def segments(self) -> list[Segment]:
        """All of them, parents before children, without the roots."""
        return self._shape.segments()

    def held_counts(self) -> Int32Array:
        """[num_pages]: the references that segments hold on each page."""
        return self._holders.held.copy()

    def check(self) -> None:
        """Raises AssertionError unless every count, order and mark is what the segments say."""
        segments = self.segments()
        self._shape.check(segments)
        self._order.check(segments)
        self._retention.check(segments)
        num_pending = sum(len(segment) - segment.num_computed for segment in segments)
        assert num_pending == self.num_pending_tokens, "pending tokens are miscounted"
        self._kept.check(segments)

    def _segment_ending_at(self, location: Location) -> Segment:
        segment = location.segment
        if location.is_whole:
            return segment
        return self.split(segment, location.num_matched - segment.start_position)

    def _append(
        self,
        above: Segment,
        tokens: Int32Array,
        slots: Int32Array,
        pages: Int32Array,
        num_held: int,
        num_computed: int,
        namespace: str,
    ) -> Segment:
        offset = int(slots[0]) % self._pool.page_size
        kept_pages = self._cover(pages, offset + num_held, offset + len(tokens)).copy()
        self._pool.retain(kept_pages)
        return self._attach(
            above,
            tokens[num_held:].copy(),
            slots[num_held:].copy(),
            kept_pages,
            max(0, num_computed - num_held),
            namespace,
        )

    def _attach(
        self,
        parent: Segment,
        tokens: Int32Array,
        slots: Int32Array,
        pages: Int32Array,
        num_computed: int,
        namespace: str,
    ) -> Segment:
        segment = self._shape.attach(parent, tokens, slots, pages, num_computed, namespace)
        self.num_pending_tokens += len(segment) - num_computed
        self._retain_again(segment)
        return segment

    def _retain_again(self, segment: Segment) -> None:
        for retained in self._retention.awaiting(segment):
            reached = retained.reached
            start = Location(reached, reached.end_position, reached.end_position)
            location = locate_below(start, retained.prefix)
            if self._retention.has_room(location):
                self._retention.reach(retained, self._segment_ending_at(location))

    def _settle(self, segment: Segment, drop: PageDrop) -> None:
        self.num_pending_tokens -= len(segment) - segment.num_computed
        if segment.num_computed == 0 or (segment.is_pending and segment.is_module):
            self._shape.detach(segment, drop)
            return
        if segment.is_pending:
            self._shape.truncate(segment, segment.num_computed, drop)
        if not segment.children:
            self._order.add(segment)

    def _evict_from(self, segment: Segment, num_pages: int, drop: PageDrop) -> int:
        num_left = len(segment.pages) - num_pages
        if num_left <= 0 or segment.is_module:
            self.evicted_tokens["room"] += len(segment)
            return self._shape.detach(segment, drop)
        num_tokens = num_left * self._pool.page_size - self._shape.offset(segment)
        self.evicted_tokens["room"] += len(segment) - num_tokens
        return self._shape.truncate(segment, num_tokens, drop)

    def _touch(self, segment: Segment) -> None:
        self._order.touch([s for s in climb_all(segment) if s.pins == 0])

    def _cover(self, pages: Int32Array, start: int, end: int) -> Int32Array:
        """The pages in which slots `[start, end)` lie, counted from the first page on."""
        return pages[start // self._pool.page_size : self._pool.pages_for(end)]
