"""The waiting index: where in the tree the match of every waiting request ends, kept up to date."""

from collections.abc import Callable, Iterable

from treeserve.scheduler.queue.waiting import Stop, Waiting
from treeserve.scheduler.tree.location import Location, locate_below
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Segment


class WaitingIndex:
    """Listens to the tree and moves exactly the requests whose match changed.

    A request is located once, when it comes. What is attached wakes those who wait for that very
    child; a split moves stops and no requests; what is detached or truncated wakes those who
    stopped in it.

    `lifted` is called before a request's stop changes, and `placed` after.
    """

    def __init__(
        self,
        tree: RadixTree,
        lifted: Callable[[Waiting], None],
        placed: Callable[[Waiting], None],
    ) -> None:
        self._tree = tree
        self._lifted = lifted
        self._placed = placed
        self._stops: dict[Segment, dict[int, Stop]] = {}
        tree.watch(self)

    def add(self, waiting: Waiting) -> None:
        """Gives the request its stop."""
        location = self._tree.locate(waiting.request.prefix)
        self._stop(location.segment, location.num_matched).add(waiting)

    def remove(self, waiting: Waiting) -> None:
        stop = waiting.stop
        stop.remove(waiting)
        if not stop.by_key:
            self._forget(stop)

    def enliven(self, leaf: Segment) -> None:
        """The segment and its ancestors are in use from now on."""
        segment: Segment | None = leaf
        while segment is not None and not segment.is_root:
            for stop in self._stops.get(segment, {}).values():
                stop.turn(is_live=True)
            segment = segment.parent

    def attached(self, segment: Segment) -> None:
        parent = segment.parent
        assert parent is not None
        stop = self._stops.get(parent, {}).get(parent.end_position)
        if stop is None or segment.key not in stop.by_key:
            return
        start = Location(parent, parent.end_position, 0)
        woken = list(stop.by_key[segment.key])
        self._move(woken, [locate_below(start, waiting.request.prefix) for waiting in woken])

    def split(self, upper: Segment, lower: Segment) -> None:
        stops = self._stops.pop(lower, {})
        above = {at: stop for at, stop in stops.items() if at <= upper.end_position}
        below = {at: stop for at, stop in stops.items() if at > upper.end_position}
        for stop in above.values():
            stop.segment = upper
        for segment, part in ((upper, above), (lower, below)):
            if part:
                self._stops[segment] = part

    def detached(self, segment: Segment, parent: Segment) -> None:
        for stop in list(self._stops.get(segment, {}).values()):
            self._move_to_end(stop.waiting(), parent)

    def truncated(self, segment: Segment) -> None:
        for position, stop in list(self._stops.get(segment, {}).items()):
            if position > segment.end_position:
                self._move_to_end(stop.waiting(), segment)

    def check(self, waiting: Iterable[Waiting]) -> None:
        """Raises AssertionError unless every request stops where a fresh look says."""
        num_waiting = 0
        for each in waiting:
            num_waiting += 1
            location = self._tree.locate(each.request.prefix)
            stop = each.stop
            assert stop.position == location.num_matched, f"{each} matches otherwise"
            assert stop.segment is location.segment, f"{each} is elsewhere"
            assert each in stop.by_key[each.next_key], f"{each} is not where it stops"
        num_indexed = 0
        for segment, stops in self._stops.items():
            assert stops, f"nobody stops in {segment}"
            for position, stop in stops.items():
                assert stop.segment is segment
                assert stop.position == position
                assert stop.by_key, f"nobody stops at {stop}"
                num_indexed += len(stop.waiting())
        assert num_indexed == num_waiting, "the index and the queue name different requests"

    def _move_to_end(self, waiting: list[Waiting], segment: Segment) -> None:
        self._move(waiting, [Location(segment, segment.end_position, 0)] * len(waiting))

    def _move(self, waiting: list[Waiting], locations: list[Location]) -> None:
        # Last come, first lifted: who is not the first of its group is cheap to lift and to place.
        for each in reversed(waiting):
            self._lifted(each)
        for each, location in zip(waiting, locations, strict=True):
            self.remove(each)
            self._stop(location.segment, location.num_matched).add(each)
            self._placed(each)

    def _stop(self, segment: Segment, position: int) -> Stop:
        stops = self._stops.setdefault(segment, {})
        if position not in stops:
            stops[position] = Stop(segment, position)
        return stops[position]

    def _forget(self, stop: Stop) -> None:
        stops = self._stops[stop.segment]
        del stops[stop.position]
        if not stops:
            del self._stops[stop.segment]
