"""Sharing first, with ageing: the order of the "tree" policy."""

from bisect import bisect_left, insort
from collections import Counter
from math import floor, log2
from typing import TypeAlias

from treeserve.scheduler.queue.policy import QueueTuning
from treeserve.scheduler.queue.waiting import OrderKey, Stop, Waiting
from treeserve.scheduler.sorted_items import SortedItems
from treeserve.scheduler.tree.segment import ChildKey

_GroupKey: TypeAlias = int | ChildKey | None
"""A class, or the child that a cohort would go on to."""


class SharingOrder:
    """The highest ratio of wait to work goes first.

    After the highest response ratio next (Brinch Hansen 1971), with the work that is left: prompt
    tokens that the tree does not hold, and a share for every sample's output. When a trunk is
    inserted, what hangs on it becomes cheap at once, and siblings are admitted together.

    Work is rounded to classes, within which the ratio is in the order of arrival; a class has one
    shelf for requests whose match ends in a segment that is in use, and one for the others. So a
    pick compares as many heads as there are classes, however many wait.

    Requests that would go on from one place to the same child are a cohort: whoever of them is
    admitted brings the others what they miss. So the first of a cohort stands on a second shelf
    besides, that of its missing tokens divided by their number: what many wait for goes first.
    """

    def __init__(self, tuning: QueueTuning) -> None:
        self._tuning = tuning
        self._groups: dict[Stop, dict[_GroupKey, _Group]] = {}
        self._shelves: dict[tuple[int, bool], SortedItems[_Group]] = {}

    def add(self, waiting: Waiting) -> None:
        groups = self._groups.get(waiting.stop)
        if groups is None:
            groups = self._groups[waiting.stop] = {}
            waiting.stop.watchers[self] = None
        for key, is_cohort in self._keys(waiting):
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(waiting.stop, is_cohort=is_cohort)
            if group.members and group.head.key < waiting.key:
                group.add(waiting)
                self._move(group)
            else:
                self._unshelve(group)
                group.add(waiting)
                self._shelve(group)

    def discard(self, waiting: Waiting) -> None:
        groups = self._groups.get(waiting.stop, {})
        for key, _ in self._keys(waiting):
            group = groups.get(key)
            if group is None or waiting not in group:
                return
            if group.head is not waiting:
                group.remove(waiting)
                self._move(group)
                continue
            self._unshelve(group)
            group.remove(waiting)
            if group.members:
                self._shelve(group)
            else:
                del groups[key]
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
            self._move(group)

    def check(self, waiting: list[Waiting]) -> None:
        grouped: Counter[Waiting] = Counter()
        num_shelved = 0
        for stop, groups in self._groups.items():
            assert self in stop.watchers, f"{stop} does not know who waits there"
            for key, group in groups.items():
                group.check()
                assert group.stop is stop, f"{stop} has others' requests"
                for each in group.members:
                    assert each.stop is stop, f"{stop} has others' requests"
                    assert (key, group.is_cohort) in self._keys(each), "in a false group"
                assert group.place == self._place(group), "on a false shelf"
                assert group.place is None or group in self._shelves[group.place], "not shelved"
                num_shelved += group.place is not None
                grouped.update(group.members)
        twice = Counter(waiting)
        assert grouped == twice + twice, "the order and the queue name different requests"
        assert num_shelved == sum(map(len, self._shelves.values())), "a group is on two shelves"
        assert all(len(shelf) for shelf in self._shelves.values()), "an empty shelf is kept"
        for shelf in self._shelves.values():
            shelf.check()

    def _keys(self, waiting: Waiting) -> tuple[tuple[_GroupKey, bool], ...]:
        """Of its two groups, and whether each is a cohort."""
        return ((self._class(waiting, 1), False), (waiting.next_key, True))

    def _class(self, waiting: Waiting, num_sharing: int) -> int:
        """Of its work, if so many share what it misses."""
        num_missing = -(-waiting.num_missing // num_sharing)
        work = self._tuning.work(num_missing, waiting.request.num_samples)
        ratio = work / self._tuning.output_share_tokens
        return floor(self._tuning.classes_per_octave * log2(ratio))

    def _ratio(self, head: Waiting, work_class: int, now: float, *, is_live: bool) -> float:
        wait = max(0.0, now - head.key.arrived_at) + self._tuning.base_wait_seconds
        octaves = work_class / self._tuning.classes_per_octave
        cost: float = 2 ** (self._tuning.work_exponent * octaves)
        return wait / cost * (self._tuning.pinned_bonus if is_live else 1.0)

    def _drop_stale(self) -> None:
        """Takes what is at the head of a live shelf from it if it is not in use any more."""
        for work_class, is_live in list(self._shelves):
            while is_live and (shelf := self._shelves.get((work_class, True))):
                stop: Stop = shelf[0].stop
                if stop.segment.pins > 0:
                    break
                stop.turn(is_live=False)

    def _place(self, group: "_Group") -> tuple[int, bool] | None:
        """A cohort of one has no shelf: it stands on its class's already."""
        num_sharing = len(group.members) if group.is_cohort else 1
        if group.is_cohort and num_sharing == 1:
            return None
        return (self._class(group.head, num_sharing), group.stop.is_live)

    def _move(self, group: "_Group") -> None:
        """Its head is the same; its shelf may be another."""
        if group.place != self._place(group):
            self._unshelve(group)
            self._shelve(group)

    def _shelve(self, group: "_Group") -> None:
        group.place = place = self._place(group)
        if place is None:
            return
        if place not in self._shelves:
            self._shelves[place] = SortedItems(key=_by_head)
        self._shelves[place].add(group)

    def _unshelve(self, group: "_Group") -> None:
        place, group.place = group.place, None
        if place is None:
            return
        self._shelves[place].remove(group)
        if not self._shelves[place]:
            del self._shelves[place]


class _Group:
    """Requests of one class or one cohort that stop at one place, by arrival."""

    __slots__ = ("_keys", "is_cohort", "members", "place", "stop")

    def __init__(self, stop: Stop, *, is_cohort: bool) -> None:
        self.stop = stop
        self.is_cohort = is_cohort
        self.place: tuple[int, bool] | None = None
        """Its shelf: the class of its work, and whether its stop is in use."""
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
