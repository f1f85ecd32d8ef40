"""The items that end with decoding samples' tails: where their slots lie, and how they grow."""

from dataclasses import dataclass, fields
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.plan.arena import Region, SlotArena
from treeserve.scheduler.step import Int32Array, Int64Array
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.segment import Segment

_MIN_ROOM = 64
"""Entries by which an item can grow before it moves, or half as many as its tail has if that is
more: it moves a few times in its life, and samples that grow in step move in few steps."""


@dataclass(slots=True, eq=False)
class _Table:
    """[num_rows] each: the item of row i."""

    region_starts: Int64Array
    region_ends: Int64Array
    tail_starts: Int64Array
    """The entry of the tail's first token."""
    filled: Int64Array
    """Entries from the region's start up to here hold slots."""
    item_starts: Int64Array
    """Position of the item's first token."""

    def take(self, rows: Int64Array) -> "_Table":
        return _Table(*(getattr(self, field.name)[rows] for field in fields(self)))


class TailItems:
    """Row i's item covers the positions from its start to the end of sample i's tail.

    It keeps its region from plan to plan for as long as leaf, tail and start stay the same.
    """

    def __init__(self, arena: SlotArena) -> None:
        self._arena = arena
        self._table = _Table(*(np.zeros(1, dtype=np.int64) for _ in fields(_Table)))
        self._leaves: list[Segment] = []
        self._tails: list[Tail] = []
        self._leads: list[tuple[Segment, ...]] | None = None
        self._rows: dict[Tail, int] = {}

    @property
    def region_starts(self) -> Int64Array:
        """[num_rows] the entry of each item's first token"""
        return self._table.region_starts[: len(self._tails)]

    @property
    def region_ends(self) -> Int64Array:
        """[num_rows] one after the last entry that each item has room for"""
        return self._table.region_ends[: len(self._tails)]

    @property
    def item_starts(self) -> Int64Array:
        """[num_rows] the position of that token"""
        return self._table.item_starts[: len(self._tails)]

    def shift(self, distances: Int64Array) -> None:
        """The regions [num_rows] have moved by these."""
        table = self._table
        for column in (table.region_starts, table.region_ends, table.tail_starts, table.filled):
            column[:-1] += distances

    def continues(self, leaves: list[Segment], tails: list[Tail]) -> bool:
        """Whether they are the very samples that were placed last, in the same order."""
        return leaves == self._leaves and tails == self._tails

    def place(
        self,
        leaves: list[Segment],
        tails: list[Tail],
        item_starts: Int64Array,
        leads: list[tuple[Segment, ...]] | None = None,
    ) -> None:
        """Finds a region for each item; `fill` completes those that were there before.

        Args:
            leaves: [num_rows]
            tails: [num_rows]
            item_starts: [num_rows] before 0 where an item has modules first.
            leads: [num_rows] those modules; None: nobody has any.
        """
        known = self._find(leaves, tails, item_starts)
        if leads is not None or self._leads is not None:
            known = self._same_leads(known, leads)
        self._leads = leads
        old = self._table
        is_gone = np.ones(len(self._tails), dtype=np.bool_)
        is_gone[known[known >= 0]] = False
        for row in np.flatnonzero(is_gone).tolist():
            self._arena.free(Region(int(old.region_starts[row]), int(old.region_ends[row])))
        self._table = old.take(np.append(known, -1))
        self._table.item_starts[:-1] = item_starts
        if not self.continues(leaves, tails):
            self._leaves, self._tails = leaves, tails
            self._rows = dict(zip(tails, range(len(tails)), strict=True))
        self._place_new(np.flatnonzero(known < 0))

    def fill(self, num_tokens: Int64Array) -> list[int]:
        """Takes up new slots of tails that have grown; returns the rows whose items have moved.

        Args:
            num_tokens: [num_rows] of each item.
        """
        table = self._table
        short = np.flatnonzero(table.filled[:-1] < table.region_starts[:-1] + num_tokens)
        if not len(short):
            return []
        pages = [self._tails[row].page_slots for row in short.tolist()]
        sizes = np.fromiter(map(len, pages), dtype=np.int64, count=len(short))
        is_crowded = table.tail_starts[short] + sizes > table.region_ends[short]
        crowded: list[int] = short[is_crowded].tolist()
        for row in crowded:
            self._move(row)
        offsets = table.filled[short] - table.tail_starts[short]
        fresh = [slots[offset:] for slots, offset in zip(pages, offsets.tolist(), strict=True)]
        sizes -= offsets
        self._arena.write_runs(table.filled[short], sizes, np.concatenate(fresh))
        table.filled[short] += sizes
        return crowded

    def _find(
        self, leaves: list[Segment], tails: list[Tail], item_starts: Int64Array
    ) -> Int64Array:
        """[num_rows] the row that the same item had before, -1 for none."""
        if self.continues(leaves, tails):
            known = np.arange(len(tails))
        else:
            known = np.fromiter(
                map(self._rows.get, tails, repeat(-1)), dtype=np.int64, count=len(tails)
            )
            old = [*self._leaves, None]
            same = [old[row] is leaf for row, leaf in zip(known.tolist(), leaves, strict=True)]
            known[~np.array(same, dtype=np.bool_)] = -1
        known[self._table.item_starts[known] != item_starts] = -1
        return known

    def _same_leads(self, known: Int64Array, leads: list[tuple[Segment, ...]] | None) -> Int64Array:
        """[num_rows] the known rows, -1 for those whose items began with other modules."""
        old = [*(self._leads or [()] * len(self._tails)), ()]
        new = leads or [()] * len(known)
        same = [old[row] == lead for row, lead in zip(known.tolist(), new, strict=True)]
        return np.where(np.array(same, dtype=np.bool_), known, -1)

    def _place_new(self, rows: NDArray[np.intp]) -> None:
        arena, table, tails, leaves = self._arena, self._table, self._tails, self._leaves
        starts = table.item_starts[rows].tolist()
        prefixes: dict[Segment, Int32Array] = {}
        placed = []
        for row, item_start in zip(rows.tolist(), starts, strict=True):
            leaf, slots = leaves[row], tails[row].page_slots
            prefix = prefixes.get(leaf)
            if prefix is None:
                pieces = [] if self._leads is None else [m.slots for m in self._leads[row]]
                pieces += path_slots(leaf, max(0, item_start), leaf.end_position)
                prefix = prefixes[leaf] = np.concatenate(pieces) if pieces else leaf.slots[:0]
            size = len(prefix) + len(slots)
            start, end = arena.allocate(size + _room(len(slots)))
            tail_start, filled = start + len(prefix), start + size
            arena.write(start, prefix)
            arena.write(tail_start, slots)
            placed.append((start, end, tail_start, filled))
        if placed:
            columns = np.array(placed, dtype=np.int64).T
            table.region_starts[rows], table.region_ends[rows] = columns[:2]
            table.tail_starts[rows], table.filled[rows] = columns[2:]

    def _move(self, row: int) -> None:
        table, arena = self._table, self._arena
        old = Region(int(table.region_starts[row]), int(table.region_ends[row]))
        filled, tail_start = int(table.filled[row]), int(table.tail_starts[row])
        num_slots = len(self._tails[row].page_slots)
        size = tail_start - old.start + num_slots
        new = arena.allocate(size + _room(num_slots))
        shift = new.start - old.start
        arena.write(new.start, arena.entries[old.start : filled])
        arena.free(old)
        table.region_starts[row], table.region_ends[row] = new
        table.tail_starts[row], table.filled[row] = tail_start + shift, filled + shift


def _room(num_tail_slots: int) -> int:
    return max(_MIN_ROOM, num_tail_slots // 2)


def path_slots(leaf: Segment, start: int, end: int) -> list[Int32Array]:
    """The slots of the tokens at positions `[start, end)` of the leaf's path, in pieces."""
    pieces: list[Int32Array] = []
    segment: Segment | None = leaf
    while segment is not None and end > start:
        if segment.start_position < end:
            first = max(start - segment.start_position, 0)
            pieces.append(segment.slots[first : end - segment.start_position])
            end = segment.start_position
        segment = segment.parent
    return pieces[::-1]
