"""Sharing first, with ageing: the order of the "tree" policy."""

from bisect import bisect_left, insort
from collections import Counter
from math import floor, log2

from sortedcontainers import SortedKeyList

from treeserve.scheduler.queue.policy import QueueTuning
from treeserve.scheduler.queue.waiting import OrderKey, Stop, Waiting


class SharingOrder:
    """The highest ratio of wait to work goes first.

    After the highest response ratio next (Brinch Hansen 1971), with the work that is left: prompt
    tokens that the tree does not hold, and a share for the output. When a trunk is inserted, what
    hangs on it becomes cheap at once, and siblings are admitted together. Work is rounded to
    classes, within which the ratio is in the order of arrival; a class has one shelf for requests
    whose match ends in a segment that is in use, and one for the others. So a pick compares as many
    heads as there are classes, however many wait.
    """

    def __init__(self, tuning: QueueTuning) -> None:
        self._tuning = tuning
        self._groups: dict[Stop, dict[int, _Group]] = {}
        self._shelves: dict[tuple[int, bool], SortedKeyList] = {}

    def add(self, waiting: Waiting) -> None:
        work_class = self._class(waiting)
        groups = self._groups.get(waiting.stop)
        if groups is None:
            groups = self._groups[waiting.stop] = {}
            waiting.stop.watchers[self] = None
        group = groups.get(work_class)
        if group is None:
            group = groups[work_class] = _Group(waiting.stop, work_class)
        elif waiting.key > group.head.key:
            group.add(waiting)
            return
        else:
            self._unshelve(group, is_live=waiting.stop.is_live)
        group.add(waiting)
        self._shelve(group)

    def discard(self, waiting: Waiting) -> None:
        groups = self._groups.get(waiting.stop, {})
        work_class = self._class(waiting)
        group = groups.get(work_class)
        if group is None or waiting not in group:
            return
        if group.head is not waiting:
            group.remove(waiting)
            return
        self._unshelve(group, is_live=waiting.stop.is_live)
        group.remove(waiting)
        if group.members:
            self._shelve(group)
            return
        del groups[work_class]
        if not groups:
            del self._groups[waiting.stop]
            del waiting.stop.watchers[self]

    def best(self, now: float) -> Waiting | None:
        self._drop_stale()
        best: Waiting | None = None
        best_rank = (0.0, OrderKey(0, 0.0, 0.0, 0))
        for (work_class, is_live), shelf in self._shelves.items():
            head: Waiting = shelf[0].head
            rank = (-self._ratio(head, work_class, now, is_live=is_live), head.key)
            if best is None or rank < best_rank:
                best, best_rank = head, rank
        return best

    def turned(self, stop: Stop) -> None:
        for group in self._groups[stop].values():
            self._unshelve(group, is_live=not stop.is_live)
            self._shelve(group)

    def check(self, waiting: list[Waiting]) -> None:
        grouped: Counter[Waiting] = Counter()
        shelved = [group for shelf in self._shelves.values() for group in shelf]
        for stop, groups in self._groups.items():
            assert self in stop.watchers, f"{stop} does not know who waits there"
            for work_class, group in groups.items():
                group.check()
                assert (group.stop, group.work_class) == (stop, work_class)
                assert all(w.stop is stop for w in group.members), f"{stop} has others' requests"
                assert all(self._class(w) == work_class for w in group.members), "wrong class"
                assert group in self._shelves[work_class, stop.is_live], "on a false shelf"
                grouped.update(group.members)
        assert grouped == Counter(waiting), "the order and the queue name different requests"
        assert len(shelved) == sum(map(len, self._groups.values())), "a group is on two shelves"
        assert all(len(shelf) for shelf in self._shelves.values()), "an empty shelf is kept"
        for shelf in self._shelves.values():
            shelf._check()

    def _class(self, waiting: Waiting) -> int:
        ratio = self._tuning.work(waiting.num_missing) / self._tuning.output_share_tokens
        return floor(self._tuning.classes_per_octave * log2(ratio))

    def _ratio(self, head: Waiting, work_class: int, now: float, *, is_live: bool) -> float:
        wait = max(0.0, now - head.key.arrived_at) + self._tuning.base_wait_seconds
        work: float = 2 ** (work_class / self._tuning.classes_per_octave)
        return wait / work * (self._tuning.pinned_bonus if is_live else 1.0)

    def _drop_stale(self) -> None:
        """Takes what is at the head of a live shelf from it if it is not in use any more."""
        for work_class, is_live in list(self._shelves):
            while is_live and (shelf := self._shelves.get((work_class, True))):
                stop: Stop = shelf[0].stop
                if stop.segment.pins > 0:
                    break
                stop.turn(is_live=False)

    def _shelve(self, group: "_Group") -> None:
        place = (group.work_class, group.stop.is_live)
        if place not in self._shelves:
            self._shelves[place] = SortedKeyList(key=_by_head)
        self._shelves[place].add(group)

    def _unshelve(self, group: "_Group", *, is_live: bool) -> None:
        place = (group.work_class, is_live)
        self._shelves[place].remove(group)
        if not self._shelves[place]:
            del self._shelves[place]


class _Group:
    """Requests of one class that stop at one place, by arrival; not empty while it is shelved."""

    __slots__ = ("_keys", "members", "stop", "work_class")

    def __init__(self, stop: Stop, work_class: int) -> None:
        self.stop = stop
        self.work_class = work_class
        self._keys: list[OrderKey] = []
        self.members: list[Waiting] = []

    def __contains__(self, waiting: Waiting) -> bool:
        index = bisect_left(self._keys, waiting.key)
        return index < len(self._keys) and self.members[index] is waiting

    @property
    def head(self) -> Waiting:
        return self.members[0]

    def add(self, waiting: Waiting) -> None:
        self.members.insert(bisect_left(self._keys, waiting.key), waiting)
        insort(self._keys, waiting.key)

    def remove(self, waiting: Waiting) -> None:
        index = bisect_left(self._keys, waiting.key)
        del self._keys[index], self.members[index]

    def check(self) -> None:
        assert self.members, "an empty group is kept"
        assert self._keys == sorted(w.key for w in self.members), "a group is out of order"


def _by_head(group: _Group) -> OrderKey:
    return group.head.key
