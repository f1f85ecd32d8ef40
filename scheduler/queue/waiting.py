"""The waiting request: its place in the order of arrival, and where in the tree its match ends."""

from typing import NamedTuple, Protocol

from treeserve.scheduler.live import LiveRequest
from treeserve.scheduler.tree.segment import ChildKey, Segment


class OrderKey(NamedTuple):
    """The place in the order of arrival; the least goes first."""

    rank: int
    arrived_at: float
    """Seconds; earlier by what priority is worth."""
    deadline: float
    serial: int


class Waiting:
    """One request in the queue; its match ends at its stop, before the child `next_key`."""

    __slots__ = (
        "admitted_before",
        "is_parked",
        "key",
        "level",
        "next_key",
        "overtaken_before",
        "request",
        "stop",
    )

    def __init__(self, request: LiveRequest, level: int, key: OrderKey) -> None:
        self.request = request
        self.level = level
        self.key = key
        self.stop: Stop
        self.next_key: ChildKey | None
        """None where the whole prompt is in the tree."""
        self.is_parked = False
        """Whether it did not fit in this pass."""
        self.admitted_before = 0
        self.overtaken_before = 0

    def __repr__(self) -> str:
        return f"Waiting({self.request.request_id}, {self.key})"

    @property
    def num_missing(self) -> int:
        """Tokens of the prompt that the tree does not hold; what another computes, it holds."""
        return len(self.request.prefix) - self.stop.position


class StopWatcher(Protocol):
    """Keeps requests whose match ends in use before others."""

    def turned(self, stop: "Stop") -> None:
        """`stop.is_live` changed."""


class Stop:
    """A position in a segment, at which the matches of waiting requests end.

    Requests are by the child that they would go on to, so that a new child wakes only its own.
    `is_live` is whether the segment was in use when somebody last looked.
    """

    __slots__ = ("by_key", "is_live", "position", "segment", "watchers")

    def __init__(self, segment: Segment, position: int) -> None:
        self.segment = segment
        self.position = position
        # A pending segment is about to be pinned, if it is not yet: nobody else keeps it.
        self.is_live = segment.pins > 0 or segment.is_pending
        self.by_key: dict[ChildKey | None, dict[Waiting, None]] = {}
        self.watchers: dict[StopWatcher, None] = {}

    def __repr__(self) -> str:
        return f"Stop({self.segment}, {self.position})"

    def add(self, waiting: Waiting) -> None:
        waiting.stop, waiting.next_key = self, _next_key(waiting.request, self.position)
        self.by_key.setdefault(waiting.next_key, {})[waiting] = None

    def remove(self, waiting: Waiting) -> None:
        beside = self.by_key[waiting.next_key]
        del beside[waiting]
        if not beside:
            del self.by_key[waiting.next_key]

    def waiting(self) -> list[Waiting]:
        return [each for beside in self.by_key.values() for each in beside]

    def turn(self, *, is_live: bool) -> None:
        if self.is_live != is_live:
            self.is_live = is_live
            for watcher in list(self.watchers):
                watcher.turned(self)


def _next_key(request: LiveRequest, position: int) -> ChildKey | None:
    prefix = request.prefix
    if position == len(prefix):
        return None
    return (prefix.zone(position)[0], int(prefix.tokens[position]))
