"""Where every item's slots lie in the arena; what stays from plan to plan is not copied again."""

from typing import TypeAlias

import numpy as np

from treeserve.scheduler.plan.arena import Region, SlotArena
from treeserve.scheduler.plan.imports import Imports
from treeserve.scheduler.plan.tail_items import TailItems, path_slots
from treeserve.scheduler.step import Int32Array, Int64Array, SlotChanges
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.segment import Segment

_Key: TypeAlias = tuple[tuple[Segment, ...], Segment | None, int, int]
"""Of modules, and after them the tokens at positions `[start, end)` of the segment's path."""


class ItemRegions:
    """The regions of one plan after another: `begin`, then place each kind of item."""

    def __init__(self) -> None:
        self._arena = SlotArena()
        self._runs: dict[_Key, Region] = {}
        self._chunks: list[Region] = []
        self._imports = Imports({}, (), np.zeros(0, dtype=np.int64))
        self.tails = TailItems(self._arena)

    @property
    def slots(self) -> Int32Array:
        """The arena as far as it is in use; good until the next plan."""
        return self._arena.slots

    def take_changes(self) -> SlotChanges:
        """What of it has been written since this was last asked."""
        return self._arena.take_changes()

    def begin(self, imports: Imports) -> None:
        """The last plan is no longer read; the next one's readers import these."""
        self._imports = imports
        for region in self._chunks:
            self._arena.free(region)
        self._chunks = []
        if self._arena.is_sparse:
            self._compact()

    def place_runs(self, bottoms: list[Segment], starts: Int64Array, ends: Int64Array) -> list[int]:
        """[num_items + num_groups] the first entry of each shared item, which ends with that
        segment, and of each group of modules."""
        old, self._runs = self._runs, {}
        firsts = []
        spans = zip(bottoms, starts.tolist(), ends.tolist(), strict=True)
        keys: list[_Key] = [(self._lead(leaf, at), leaf, at, end) for leaf, at, end in spans]
        keys += [(group.modules, None, -group.num_tokens, 0) for group in self._imports.groups]
        for key in keys:
            region = old.pop(key, None) or self._copy(*key)
            self._runs[key] = region
            firsts.append(region.start)
        for region in old.values():
            self._arena.free(region)
        return firsts

    def place_chunks(
        self, leaves: list[Segment], starts: Int64Array, ends: Int64Array
    ) -> list[int]:
        """[num_items] the first entry of each item that one chunk reads alone."""
        spans = zip(leaves, starts.tolist(), ends.tolist(), strict=True)
        self._chunks = [self._copy(self._lead(leaf, at), leaf, at, end) for leaf, at, end in spans]
        return [region.start for region in self._chunks]

    def place_tails(
        self, leaves: list[Segment], tails: list[Tail], starts: Int64Array, ends: Int64Array
    ) -> Int64Array:
        """[num_items] the first entry of each decoding sample's own item."""
        leads: list[tuple[Segment, ...]] | None = None
        if self._imports.leads:
            spans = zip(leaves, starts.tolist(), strict=True)
            leads = [self._lead(leaf, start) for leaf, start in spans]
        self.tails.place(leaves, tails, starts, leads)
        self.tails.fill(ends - starts)
        return self.tails.region_starts

    def _compact(self) -> None:
        runs = np.array([*self._runs.values()], dtype=np.int64).reshape(-1, 2)
        starts = np.concatenate([runs[:, 0], self.tails.region_starts])
        ends = np.concatenate([runs[:, 1], self.tails.region_ends])
        moved = self._arena.compact(starts, ends)
        shifted = (runs + (moved - starts)[: len(runs), None]).tolist()
        self._runs = {key: Region(*at) for key, at in zip(self._runs, shifted, strict=True)}
        self.tails.shift((moved - starts)[len(runs) :])

    def _lead(self, leaf: Segment, start: int) -> tuple[Segment, ...]:
        return self._imports.lead(leaf) if start < 0 else ()

    def _copy(
        self, modules: tuple[Segment, ...], leaf: Segment | None, start: int, end: int
    ) -> Region:
        region = self._arena.allocate(end - start)
        at = region.start
        pieces = [module.slots for module in modules]
        if leaf is not None:
            pieces += path_slots(leaf, max(0, start), end)
        for piece in pieces:
            self._arena.write(at, piece)
            at += len(piece)
        return region
