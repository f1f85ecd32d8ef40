"""The order of arrival of one tenant's waiting requests, and the bound on overtaking them."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from operator import attrgetter

from treeserve.scheduler.queue.policy import QueueTuning
from treeserve.scheduler.queue.waiting import OrderKey, Waiting
from treeserve.scheduler.sorted_items import SortedItems

_by_key = attrgetter("key")


class ArrivalOrder:
    """Knows how much work went past those who wait, and when that is enough.

    Work counts prompt tokens that had to be computed and a share for each sample's output, when a
    request is admitted. For a waiting request, O is the work of others that were admitted since it
    came though they are after it in the order of arrival, and E the work of those before it. As
    soon as

        O >= slack + share * E

    for the first of a level of priority, overtaking is spent: requests go in the order of arrival,
    whereby O grows for nobody, and the pass ends if the next one does not fit. So for the first,
    O < slack + share * E + w at all times, where w is the largest work of one request: the work
    E + O that it waits for is within (1 + share) of what it would wait for in the order of
    arrival, up to slack + w. No later one of its level has a larger O, for whoever passes that one
    passes the first too, which waits longer. A request that comes back to its old place counts from
    then on.
    """

    def __init__(self, tuning: QueueTuning) -> None:
        self._tuning = tuning
        self._levels: dict[int, _Level] = {}
        self._passed: list[tuple[OrderKey, int]] = []
        """(key, work) of the admitted who were after somebody that still waits; sorted."""
        self._num_admitted = 0
        self._num_beyond = 0
        """Work of the admitted who are after everybody: of other tenants."""

    def __len__(self) -> int:
        return sum(len(level.waiting) for level in self._levels.values())

    def __iter__(self) -> Iterator[Waiting]:
        for level in self._levels.values():
            yield from level.waiting

    @property
    def first(self) -> Waiting:
        return min((level.head for level in self._levels.values()), key=_by_key)

    @property
    def is_spent(self) -> bool:
        """Whether somebody was overtaken as much as may be."""
        return any(self._is_spent(level) for level in self._levels.values())

    def add(self, waiting: Waiting) -> None:
        waiting.admitted_before = self._num_admitted
        waiting.overtaken_before = self._num_after(waiting.key)
        level = self._levels.get(waiting.level)
        if level is None:
            level = self._levels[waiting.level] = _Level()
        level.waiting.add(waiting)
        self._look(level)

    def remove(self, waiting: Waiting) -> None:
        level = self._levels[waiting.level]
        level.waiting.remove(waiting)
        if not level.waiting:
            del self._levels[waiting.level]
            if not self._levels:
                self._passed.clear()
                return
        elif waiting.key < level.head.key:
            self._look(level)
        del self._passed[: bisect_left(self._passed, (self.first.key,))]

    def count_admitted(self, key: OrderKey, work: int) -> None:
        """A request that is not in it any more was admitted."""
        self._num_admitted += work
        is_past_somebody = False
        for level in self._levels.values():
            if level.head.key < key:
                level.num_overtaken += work
                is_past_somebody = True
        if is_past_somebody:
            insort(self._passed, (key, work))

    def count_let_past(self, work: int) -> None:
        """Another tenant's request was admitted after one of these did not fit."""
        self._num_admitted += work
        self._num_beyond += work
        for level in self._levels.values():
            level.num_overtaken += work

    def num_overtaken(self, waiting: Waiting) -> int:
        """O of a waiting request."""
        return self._num_after(waiting.key) - waiting.overtaken_before

    def check(self) -> None:
        """Raises AssertionError unless every level knows how much passed its first request."""
        for number, level in self._levels.items():
            assert level.waiting, "an empty level is kept"
            assert all(waiting.level == number for waiting in level.waiting), "a false level"
            assert level.num_overtaken == self.num_overtaken(level.head), "miscounted"
            level.waiting.check()
        assert self._passed == sorted(self._passed), "the admitted are out of order"
        assert not self._passed or self._passed[0][0] > self.first.key, "nobody was passed"

    def _is_spent(self, level: "_Level") -> bool:
        num_since = self._num_admitted - level.head.admitted_before
        num_before = num_since - level.num_overtaken
        allowed = self._tuning.overtaking_slack_tokens + self._tuning.overtaking_share * num_before
        return level.num_overtaken >= allowed

    def _look(self, level: "_Level") -> None:
        level.num_overtaken = self.num_overtaken(level.head)

    def _num_after(self, key: OrderKey) -> int:
        start = bisect_right(self._passed, key, key=_key_of)
        return self._num_beyond + sum(work for _, work in self._passed[start:])


class _Level:
    """Requests that are of one priority."""

    __slots__ = ("num_overtaken", "waiting")

    def __init__(self) -> None:
        self.waiting: SortedItems[Waiting] = SortedItems(key=_by_key)
        self.num_overtaken = 0

    @property
    def head(self) -> Waiting:
        return self.waiting[0]


def _key_of(passed: tuple[OrderKey, int]) -> OrderKey:
    return passed[0]
