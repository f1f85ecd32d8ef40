"""The slot arena: one array in which every work item has a region of its own."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from treeserve.scheduler.step import Int32Array, Int64Array, SlotChanges

_MIN_CAPACITY = 64


class Region(NamedTuple):
    """Entries `[start, end)` of the arena."""

    start: int
    end: int


class SlotArena:
    """Regions never overlap. Sizes come in few classes, so that what one item gave back fits the
    next. Entries that no item covers hold anything. What is written is remembered, for copies of
    the arena elsewhere to follow.
    """

    def __init__(self, num_entries: int = 1 << 16) -> None:
        self.entries: Int32Array = np.zeros(num_entries, dtype=np.int32)
        """Another array once it has grown. Written through `write` and `write_runs` alone."""
        self.end = 0
        """Regions lie before it."""
        self._num_free = 0
        self._free: dict[int, list[int]] = {}
        self._state: object | None = None
        self._changed_starts: list[int] = []
        self._changed_ends: list[int] = []

    @property
    def slots(self) -> Int32Array:
        return self.entries[: self.end]

    @property
    def is_sparse(self) -> bool:
        """Whether it would pay to move everything together."""
        return self._num_free > self.end // 4 and self._num_free > len(self.entries) // 8

    def write(self, start: int, slots: Int32Array) -> None:
        """The entries from `start` on hold these slots [num_slots]."""
        end = start + len(slots)
        self.entries[start:end] = slots
        self._changed_starts.append(start)
        self._changed_ends.append(end)

    def write_runs(self, starts: Int64Array, sizes: Int64Array, slots: Int32Array) -> None:
        """Run i, `sizes[i]` of the slots [num_slots], goes to the entries from `starts[i]` on."""
        first = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        self.entries[first + np.arange(len(slots))] = slots
        self._changed_starts += starts.tolist()
        self._changed_ends += (starts + sizes).tolist()

    def take_changes(self) -> SlotChanges:
        """What has been written since this was last asked."""
        since, self._state = self._state, object()
        starts, self._changed_starts = self._changed_starts, []
        ends, self._changed_ends = self._changed_ends, []
        return SlotChanges(since, self._state, _array(starts), _array(ends))

    def allocate(self, size: int) -> Region:
        """A region of at least this many entries."""
        capacity = _capacity(size)
        free = self._free.get(capacity)
        if free:
            self._num_free -= capacity
            start = free.pop()
            return Region(start, start + capacity)
        start, self.end = self.end, self.end + capacity
        if self.end > len(self.entries):
            grown = np.zeros(max(self.end, 2 * len(self.entries)), dtype=np.int32)
            grown[:start] = self.entries[:start]
            self.entries = grown
        return Region(start, self.end)

    def free(self, region: Region) -> None:
        capacity = region.end - region.start
        self._num_free += capacity
        self._free.setdefault(capacity, []).append(region.start)

    def compact(self, starts: Int64Array, ends: Int64Array) -> Int64Array:
        """Moves all regions that there are together; returns where each of them starts now."""
        order = np.argsort(starts)
        sizes = ends - starts
        moved = np.empty_like(starts)
        moved[order] = np.cumsum(sizes[order]) - sizes[order]
        # Each moves down, into room that is free by then.
        for region in order.tolist():
            start, end, first = int(starts[region]), int(ends[region]), int(moved[region])
            self.entries[first : first + end - start] = self.entries[start:end]
        self.end, self._num_free = int(sizes.sum()), 0
        self._free.clear()
        self._state = None
        return moved


def _array(values: ArrayLike) -> Int64Array:
    return np.array(values, dtype=np.int64)


def _capacity(size: int) -> int:
    """Four to eight classes for every power of two."""
    step = max(_MIN_CAPACITY, 1 << max(0, size.bit_length() - 3))
    return max(step, -(-size // step) * step)
