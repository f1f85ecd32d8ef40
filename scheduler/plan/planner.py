"""The planner: inverts the samples' paths into work items, sharing a segment where that pays."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from treeserve.config import SharingMode
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.counts import count_plan
from treeserve.scheduler.plan.decide import Decisions, decide
from treeserve.scheduler.plan.imports import Imports
from treeserve.scheduler.plan.layout import Items, Pieces, cut_items, list_items, list_states
from treeserve.scheduler.plan.regions import ItemRegions
from treeserve.scheduler.plan.snapshot import PlanSnapshot, take_snapshot
from treeserve.scheduler.plan.trie import (
    Chunk,
    DecodingSample,
    Readers,
    Trie,
    build_trie,
    flat_trie,
    make_readers,
)
from treeserve.scheduler.step import Int32Array, Int64Array, Plan, PlanCounts
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.segment import Segment

STALE_TOKENS = 256
"""By which a tail's last piece may outgrow `max_item_tokens`, or by as many again if that is more,
before items are cut anew; no plan is made anew for that more often than every so many steps."""

_leaf_of, _tail_of = attrgetter("leaf"), attrgetter("tail")


class Planner:
    """Plans one step after another: the cheapest plan by the cost model, made as cheaply as it can.

    Where the samples are those of the last step and each has one token more, the last plan goes on:
    what it decided does not depend on the tails' lengths. (With `max_item_tokens` it does: cuts and
    decisions then stand until a tail's last piece is too long by STALE_TOKENS, or by as many again
    if that is more.) Any other plan is made anew, in time linear in the running samples, the
    segments of their paths and the rows of prompts.

    sharing: "on" decides by the cost model; "always" shares whatever two samples share; "off" is
    ordinary attention, where each reads its whole path alone.
    """

    def __init__(self, cost_model: CostModel, sharing: SharingMode) -> None:
        self._sharing = sharing
        self._regions = ItemRegions()
        self.use_costs(cost_model)

    def use_costs(self, cost_model: CostModel) -> None:
        """Plans by these costs from now on; the next plan is made anew."""
        self._cost_model = self._deciding_costs = cost_model
        if self._sharing == "always":
            self._deciding_costs = replace(
                cost_model, state_cost=0.0, item_cost=0.0, sharing_cost=0.0
            )
        self._last: _Planned | None = None

    def plan(
        self, samples: Sequence[DecodingSample], chunks: Sequence[Chunk], positions: Int32Array
    ) -> Plan:
        """The plan of a step. The slots of the plan before are no longer good.

        Args:
            samples: Row i of the step is the last token of sample i's tail.
            chunks: The rows after these, in order.
            positions: [num_rows]
        """
        leaves, tails = list(map(_leaf_of, samples)), list(map(_tail_of, samples))
        if self._last is None or chunks or not self._goes_on(self._last, leaves, tails, positions):
            self._last = self._rebuild(leaves, tails, chunks, positions)
        else:
            self._last = self._grow(self._last, positions)
        return self._last.plan

    def snapshot(self) -> PlanSnapshot:
        """What became of every shared segment in the last plan, and why."""
        last = self._last or self._rebuild([], [], [], np.zeros(0, dtype=np.int32))
        return take_snapshot(
            last.trie, last.decisions, last.imports, last.pieces, last.plan, self._sharing
        )

    def _goes_on(
        self, last: "_Planned", leaves: list[Segment], tails: list[Tail], positions: Int32Array
    ) -> bool:
        return (
            last.num_steps_left > 0
            and np.array_equal(positions, last.next_positions)
            and self._regions.tails.continues(leaves, tails)
        )

    def _grow(self, last: "_Planned", positions: Int32Array) -> "_Planned":
        plan, tails = last.plan, self._regions.tails
        slot_starts, slot_ends = plan.item_slot_starts, plan.item_slot_ends.copy()
        slot_ends[last.tail_pieces] += 1
        moved = tails.fill(positions + 1 - tails.item_starts)
        if moved:
            slot_starts = slot_starts.copy()
            for row in moved:
                own = last.pieces.of_item(last.first_tail_item + row)
                shift = tails.region_starts[row] - slot_starts[own.start]
                slot_starts[own] += shift
                slot_ends[own] += shift
        grown = replace(
            plan,
            item_slots=self._regions.slots,
            item_slot_starts=slot_starts,
            item_slot_ends=slot_ends,
            counts=self._count_grown(plan.counts, len(positions)),
            slot_changes=self._regions.take_changes(),
        )
        return last.after(grown, positions)

    def _count_grown(self, counts: PlanCounts, num_tokens: int) -> PlanCounts:
        return replace(
            counts,
            tokens_read=counts.tokens_read + num_tokens,
            tokens_read_flat=counts.tokens_read_flat + num_tokens,
            predicted_cost=counts.predicted_cost + self._cost_model.token_cost * num_tokens,
            origin="reused",
        )

    def _rebuild(
        self,
        leaves: list[Segment],
        tails: list[Tail],
        chunks: Sequence[Chunk],
        positions: Int32Array,
    ) -> "_Planned":
        num_decoding = len(leaves)
        shares, costs = self._sharing != "off", self._deciding_costs
        readers = make_readers(leaves, positions[:num_decoding] + 1, chunks, costs, shares=shares)
        trie = build_trie(readers) if shares else flat_trie(len(readers))
        decisions = decide(trie, readers, costs)
        items = list_items(trie, decisions, readers)
        pieces = cut_items(items, self._cost_model.max_item_tokens)
        first_slots = self._place(items, trie, readers, tails)
        states = list_states(items, pieces, readers, positions)
        counts = count_plan(trie, decisions, readers, items, pieces, states, self._cost_model)
        slot_starts = first_slots[pieces.items] + pieces.offsets
        tail_items = np.arange(items.num_shared, items.num_shared + num_decoding)
        tail_pieces = pieces.firsts[tail_items + 1] - 1
        return _Planned(
            plan=Plan(
                item_rows=states.item_rows,
                item_row_starts=states.item_row_starts,
                item_slots=self._regions.slots,
                item_slot_starts=slot_starts.astype(np.int32),
                item_slot_ends=(slot_starts + pieces.lengths).astype(np.int32),
                item_start_positions=states.item_start_positions,
                row_states=states.row_states,
                row_state_starts=states.row_state_starts,
                counts=counts,
                slot_changes=self._regions.take_changes(),
            ),
            trie=trie,
            decisions=decisions,
            imports=readers.imports,
            pieces=pieces,
            first_tail_item=items.num_shared,
            tail_pieces=tail_pieces,
            next_positions=positions + 1,
            num_steps_left=self._num_steps(pieces.lengths[tail_pieces]),
        )

    def _place(self, items: Items, trie: Trie, readers: Readers, tails: list[Tail]) -> Int64Array:
        """[num_items] the first entry of each item in the arena."""
        regions, num_tails = self._regions, readers.num_decoding
        regions.begin(readers.imports)
        ends = np.cumsum([len(items.own_runs), items.num_groups, num_tails])
        starts, _, tail_starts, chunk_starts = np.split(items.starts, ends)
        run_ends, _, tail_ends, chunk_ends = np.split(items.ends, ends)
        leaves = readers.leaves
        bottoms = [trie.bottoms[run] for run in items.own_runs.tolist()]
        chunk_leaves = [leaves[reader] for reader in items.alone[num_tails:].tolist()]
        return np.concatenate(
            [
                np.array(regions.place_runs(bottoms, starts, run_ends), dtype=np.int64),
                regions.place_tails(leaves[:num_tails], tails, tail_starts, tail_ends),
                np.array(
                    regions.place_chunks(chunk_leaves, chunk_starts, chunk_ends), dtype=np.int64
                ),
            ]
        )

    def _num_steps(self, tail_lengths: Int64Array) -> int:
        """For which a plan with such last pieces of tails may go on."""
        max_tokens = self._cost_model.max_item_tokens
        if max_tokens is None:
            return sys.maxsize
        return max_tokens + max(max_tokens, STALE_TOKENS) - int(tail_lengths.max(initial=0))


@dataclass(frozen=True, slots=True, eq=False)
class _Planned:
    """A plan, how it came about, and what the next one needs in order to go on from it."""

    plan: Plan
    trie: Trie
    decisions: Decisions
    imports: Imports
    pieces: Pieces
    first_tail_item: int
    tail_pieces: Int64Array
    """[num_decoding] the piece with which each tail ends"""
    next_positions: Int32Array
    num_steps_left: int
    """Before tails are too long for their pieces."""

    def after(self, plan: Plan, positions: Int32Array) -> "_Planned":
        return replace(
            self, plan=plan, next_positions=positions + 1, num_steps_left=self.num_steps_left - 1
        )
