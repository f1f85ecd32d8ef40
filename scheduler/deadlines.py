"""Deadlines of live requests, soonest first."""

from treeserve.scheduler.sorted_items import SortedItems


class Deadlines:
    """A request without one is not in it."""

    def __init__(self) -> None:
        self._order: SortedItems[tuple[float, str]] = SortedItems()
        self._by_id: dict[str, float] = {}

    def add(self, request_id: str, deadline: float | None) -> None:
        if deadline is not None:
            self._by_id[request_id] = deadline
            self._order.add((deadline, request_id))

    def discard(self, request_id: str) -> None:
        deadline = self._by_id.pop(request_id, None)
        if deadline is not None:
            self._order.remove((deadline, request_id))

    def passed(self, now: float) -> list[str]:
        """Requests whose deadline is not after `now`."""
        passed = []
        for deadline, request_id in self._order:
            if deadline > now:
                break
            passed.append(request_id)
        return passed
