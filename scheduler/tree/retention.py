"""Retention: which prefixes are worth more than their use says, until when, and in what budget."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from treeserve.errors import InvalidRequest, OverBudget
from treeserve.scheduler.sorted_items import SortedItems
from treeserve.scheduler.tree.eviction import EvictionOrder
from treeserve.scheduler.tree.location import Location
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.segment import ChildKey, Segment

MAX_RETAINED_PREFIXES = 4096
"""At any time, since a prefix that the tree does not hold counts no tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class RetainedPrefix:
    """What was asked for, and what became of it."""

    retained_id: int
    prefix: Prefix
    weight: float
    """In doublings of its hits; the greatest counts where several retain the same tokens."""
    expires_at: float
    """Seconds, on the tree's clock."""
    num_held_tokens: int
    """Of the prefix, retained when this record was made."""


class Retained:
    """One retained prefix while it lives.

    Every segment from the root down to `reached` is marked for it. Where that is not the whole
    prefix it waits for the child of `reached` that would carry on.
    """

    __slots__ = ("awaited", "expires_at", "prefix", "reached", "retained_id", "weight")

    def __init__(
        self, retained_id: int, prefix: Prefix, weight: float, expires_at: float, root: Segment
    ) -> None:
        self.retained_id = retained_id
        self.prefix = prefix
        self.weight = weight
        self.expires_at = expires_at
        self.reached = root
        self.awaited: tuple[Segment, ChildKey] | None = None

    def record(self) -> RetainedPrefix:
        return RetainedPrefix(
            self.retained_id, self.prefix, self.weight, self.expires_at, self.reached.end_position
        )

    def next_key(self) -> tuple[Segment, ChildKey] | None:
        """Whose child it waits for, and which one; None when the tree holds all of the prefix."""
        position = self.reached.end_position
        if position == len(self.prefix):
            return None
        namespace, _ = self.prefix.zone(position)
        return self.reached, (namespace, int(self.prefix.tokens[position]))


class Retention:
    """A bias in the eviction order, not a lock; what is evicted all the same frees its budget.

    `num_tokens` counts the tokens of marked segments, once each, and never exceeds the budget. A
    mark on a segment is a mark on all its ancestors.
    """

    def __init__(self, order: EvictionOrder, budget_tokens: int) -> None:
        self._order = order
        self._marks: dict[Segment, dict[int, Retained]] = {}
        self._retained: dict[int, Retained] = {}
        self._awaiting: dict[tuple[Segment, ChildKey], dict[int, Retained]] = {}
        self._expiries: SortedItems[tuple[float, int]] = SortedItems()
        self._next_id = 1
        self.budget_tokens = budget_tokens
        self.num_tokens = 0

    def require_room(self, location: Location) -> None:
        """Raises OverBudget where retaining up to there would exceed the budget."""
        num_asked, num_left = self._count_new(location), self.budget_tokens - self.num_tokens
        if num_asked > num_left:
            raise OverBudget(
                "prefix",
                f"has {num_asked} cached tokens that are not retained yet, and {self.num_tokens} "
                f"of the {self.budget_tokens} tokens that may be retained are taken",
                num_left,
            )
        if len(self._retained) >= MAX_RETAINED_PREFIXES:
            raise OverBudget(
                "prefix",
                f"{MAX_RETAINED_PREFIXES} prefixes are retained, and no more may be",
                num_left,
            )

    def has_room(self, location: Location) -> bool:
        return self._count_new(location) <= self.budget_tokens - self.num_tokens

    def open(self, root: Segment, prefix: Prefix, weight: float, expires_at: float) -> Retained:
        """A new one, which has reached nothing yet."""
        retained = Retained(self._next_id, prefix, weight, expires_at, root)
        self._next_id += 1
        self._retained[retained.retained_id] = retained
        self._expiries.add((expires_at, retained.retained_id))
        self._await(retained)
        return retained

    def reach(self, retained: Retained, end: Segment) -> None:
        """Marks what lies between what it has reached and `end`, which counts as a use."""
        path = []
        segment = end
        while segment is not retained.reached:
            assert segment.parent is not None
            path.append(segment)
            segment = segment.parent
        for segment in path:
            marks = self._marks.setdefault(segment, {})
            self.num_tokens += 0 if marks else len(segment)
            marks[retained.retained_id] = retained
            segment.retained_weight = max(segment.retained_weight, retained.weight)
        self._order.touch(path)
        retained.reached = end
        self._await(retained)

    def awaiting(self, segment: Segment) -> list[Retained]:
        """Those that a new segment carries on."""
        if not self._awaiting:
            return []
        assert segment.parent is not None
        return list(self._awaiting.get((segment.parent, segment.key), {}).values())

    def release(self, retained_id: int) -> bool:
        """Undoes `open`; False where there is no such id."""
        retained = self._retained.pop(retained_id, None)
        if retained is None:
            return False
        self._expiries.remove((retained.expires_at, retained_id))
        self._await_no_more(retained)
        segment = retained.reached
        while segment.parent is not None:
            self._unmark(segment, retained_id)
            segment = segment.parent
        return True

    def expire(self, now: float) -> tuple[int, ...]:
        """Releases those whose time is over; their ids."""
        expired = []
        while self._expiries and self._expiries[0][0] <= now:
            expired.append(self._expiries[0][1])
            self.release(expired[-1])
        return tuple(expired)

    def records(self) -> tuple[RetainedPrefix, ...]:
        return tuple(retained.record() for retained in self._retained.values())

    def split(self, upper: Segment, lower: Segment) -> None:
        """To be called after the tree split: whoever marked the one marks both."""
        upper.retained_weight = lower.retained_weight
        if lower in self._marks:
            self._marks[upper] = dict(self._marks[lower])

    def detached(self, segment: Segment, parent: Segment) -> None:
        """To be called after a leaf left: whoever marked it waits for it to come back."""
        marks = self._marks.pop(segment, None)
        if marks is None:
            return
        self.num_tokens -= len(segment)
        for retained in marks.values():
            retained.reached = parent
            self._await(retained)

    def truncated(self, segment: Segment, num_dropped: int) -> None:
        """To be called after a leaf lost its last tokens: likewise."""
        marks = self._marks.get(segment)
        if marks is None:
            return
        self.num_tokens -= num_dropped
        for retained in marks.values():
            self._await(retained)

    def check(self, segments: Iterable[Segment]) -> None:
        """Raises AssertionError unless marks, budget, expiries and waits are what they should."""
        marks: dict[Segment, dict[int, Retained]] = {}
        awaiting: dict[tuple[Segment, ChildKey], dict[int, Retained]] = {}
        for retained_id, retained in self._retained.items():
            segment = retained.reached
            assert segment.end_position <= len(retained.prefix), "retained too much"
            while segment.parent is not None:
                marks.setdefault(segment, {})[retained_id] = retained
                segment = segment.parent
            assert retained.awaited == retained.next_key(), "waits for another child"
            if retained.awaited is not None:
                awaiting.setdefault(retained.awaited, {})[retained_id] = retained
        assert marks == self._marks, "marks and retained prefixes disagree"
        assert awaiting == self._awaiting, "a retained prefix waits in another place"
        assert self.num_tokens == sum(len(s) for s in marks), "retained tokens are miscounted"
        assert self.num_tokens <= self.budget_tokens, "more tokens are retained than may be"
        for segment in segments:
            weight = max((r.weight for r in marks.pop(segment, {}).values()), default=0.0)
            assert segment.retained_weight == weight, f"{segment} has a false weight"
        assert not marks, "a segment that left the tree is marked"
        expiries = sorted((r.expires_at, retained_id) for retained_id, r in self._retained.items())
        assert list(self._expiries) == expiries, "expiries and retained prefixes disagree"

    def _count_new(self, location: Location) -> int:
        segment = location.segment
        if segment in self._marks:
            return 0
        while segment.parent is not None and segment.parent not in self._marks:
            segment = segment.parent
        return location.num_matched - segment.start_position

    def _unmark(self, segment: Segment, retained_id: int) -> None:
        marks = self._marks[segment]
        del marks[retained_id]
        if not marks:
            del self._marks[segment]
            self.num_tokens -= len(segment)
        weight = max((retained.weight for retained in marks.values()), default=0.0)
        if weight != segment.retained_weight:
            segment.retained_weight = weight
            self._order.rerank(segment)

    def _await(self, retained: Retained) -> None:
        self._await_no_more(retained)
        retained.awaited = retained.next_key()
        if retained.awaited is not None:
            self._awaiting.setdefault(retained.awaited, {})[retained.retained_id] = retained

    def _await_no_more(self, retained: Retained) -> None:
        if retained.awaited is None:
            return
        awaiting = self._awaiting[retained.awaited]
        del awaiting[retained.retained_id]
        if not awaiting:
            del self._awaiting[retained.awaited]
        retained.awaited = None


def require_bias(weight: float, ttl_seconds: float) -> None:
    """Raises InvalidRequest unless both are finite and positive."""
    for name, value in (("weight", weight), ("ttl_seconds", ttl_seconds)):
        if not (isfinite(value) and value > 0):
            raise InvalidRequest(name, f"must be a positive number, got {value}")
