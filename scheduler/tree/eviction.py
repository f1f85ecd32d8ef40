"""The eviction order: which cached leaf is worth least."""

from collections.abc import Callable, Iterable
from math import log2
from operator import attrgetter

from treeserve.scheduler.sorted_items import SortedItems
from treeserve.scheduler.tree.segment import Segment

EVEN_POSITION = 32_768
"""Where computing a token's attention over all before it costs as much as the rest of the model
does for that token: 2 * parameters / (4 * layers * query heads * head size), some 30,000 for Llama
3.1 8B. Only how far a deep token outweighs a shallow one hangs on it."""


class EvictionOrder:
    """Segments that may go, least valuable first (GreedyDual-Size-Frequency, Cherkasova 1998).

    rank = inflation when last used + (log2(2 + hits) + retained weight) * cost of a token

    and of equals the least recently used. The inflation rises to the rank of whatever is evicted,
    so that what is not used again ages without being touched; and by one with every poolful of new
    tokens, so that recency counts before anything had to go. A rank stays as it is while the
    segment is in the order. Hits count by their logarithm: a trunk that a thousand requests shared
    outlives ten turnovers of the cache and not a thousand.
    """

    def __init__(self, clock: Callable[[], float], pool_tokens: int) -> None:
        self._clock = clock
        self._pool_tokens = pool_tokens
        self._inflation = 0.0
        self._ticks = 0
        self._order: SortedItems[Segment] = SortedItems(key=attrgetter("rank"))

    def __len__(self) -> int:
        return len(self._order)

    def pass_tokens(self, num_tokens: int) -> None:
        """So many new ones came into the tree, whose measure of time they are."""
        self._inflation += num_tokens / self._pool_tokens

    def touch(self, segments: Iterable[Segment]) -> None:
        """These are used now."""
        self._ticks += 1
        now = self._clock()
        for segment in segments:
            segment.last_used, segment.last_used_at = self._ticks, now
            segment.inflation = self._inflation
            self.rerank(segment)

    def rerank(self, segment: Segment) -> None:
        """Places the segment anew, if it is in the order."""
        if segment.rank is not None:
            self.discard(segment)
            self.add(segment)

    def add(self, segment: Segment) -> None:
        """A leaf that nobody pins, and that is not in the order."""
        worth = log2(2 + segment.hits) + segment.retained_weight
        middle = segment.start_position + 0.5 * len(segment)
        value = segment.inflation + worth * (1 + middle / EVEN_POSITION)
        segment.rank = (value, segment.last_used, segment.serial)
        self._order.add(segment)

    def discard(self, segment: Segment) -> None:
        if segment.rank is not None:
            self._order.remove(segment)
            segment.rank = None

    def least(self) -> Segment | None:
        """What is to go next."""
        if not self._order:
            return None
        return self._order[0]

    def age(self, evicted: Segment) -> None:
        """All others lose what this one, which goes or loses tokens for room, was worth."""
        assert evicted.rank is not None
        self._inflation = max(self._inflation, evicted.rank[0])

    def check(self, segments: Iterable[Segment]) -> None:
        """Raises AssertionError unless exactly the unpinned leaves are in the order, once each."""
        leaves = {s for s in segments if s.pins == 0 and not s.children}
        assert set(self._order) == leaves, "the eviction order is not the unpinned leaves"
        assert len(self._order) == len(leaves), "a leaf is in the eviction order twice"
        ranked = {s for s in segments if s.rank is not None}
        assert ranked == leaves, "a segment is ranked and not in the order"
        self._order.check()
