"""The plan explained: what became of every shared segment, and why, as plain data."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from treeserve.config import SharingMode
from treeserve.scheduler.plan.decide import Decisions
from treeserve.scheduler.plan.imports import Imports, ModuleGroup
from treeserve.scheduler.plan.layout import Pieces
from treeserve.scheduler.plan.trie import Trie
from treeserve.scheduler.step import Plan, PlanCounts
from treeserve.scheduler.tree.segment import Segment

Decision: TypeAlias = Literal["own", "folded"]


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """A segment that several samples or prompts of the step read."""

    serial: int
    namespace: str
    start_position: int
    end_position: int
    num_rows: int
    """Beneath it."""
    decision: Decision
    """own: read once, in an item of its own or of several segments with the same readers; folded:
    read in the items beneath, once in each."""
    item_start_position: int
    """Where the item starts that ends with this run of segments, or would; before the segment if it
    carries tokens from above. 0 where modules come first."""
    num_pieces: int
    """Into which that item is cut; 0 if folded."""
    own_cost: float
    """Of the segment and all beneath it, by the cost model, with an item of its own."""
    folded_cost: float
    """Of the same where it is folded."""
    reason: str


@dataclass(frozen=True, slots=True)
class PlanSnapshot:
    """Shared segments, uppermost first; all other items are plain ones."""

    segments: tuple[PlannedSegment, ...]
    num_plain_items: int
    saved_cost: float
    """What sharing saves in the step as a whole, or would, by the cost model; merging not counted.
    """
    merging_cost: float
    """What that has to exceed; else nothing is shared that would have to be merged."""
    counts: PlanCounts


def take_snapshot(
    trie: Trie,
    decisions: Decisions,
    imports: Imports,
    pieces: Pieces,
    plan: Plan,
    sharing: SharingMode,
) -> PlanSnapshot:
    """The plan that the others led to."""
    segments: list[PlannedSegment] = []
    item = 0
    for run in range(len(trie)):
        num_pieces = 0
        if decisions.owns[run]:
            own = pieces.of_item(item)
            num_pieces = own.stop - own.start
            item += 1
        segments += _planned_run(trie, decisions, imports, run, num_pieces, sharing)
    for number, group in enumerate(imports.groups, item):
        own = pieces.of_item(number)
        segments += [_planned_module(group, each, own.stop - own.start) for each in group.modules]
    return PlanSnapshot(
        segments=tuple(segments),
        num_plain_items=plan.counts.num_private_items,
        saved_cost=decisions.saved_cost,
        merging_cost=decisions.merging_cost,
        counts=plan.counts,
    )


def _planned_run(
    trie: Trie,
    decisions: Decisions,
    imports: Imports,
    run: int,
    num_pieces: int,
    sharing: SharingMode,
) -> list[PlannedSegment]:
    own_cost, folded_cost = float(decisions.own_costs[run]), float(decisions.folded_costs[run])
    reason = f"sharing is always on: {int(trie.num_rows[run])} rows read it in one item"
    if sharing != "always":
        reason = _reason(decisions, run, int(trie.num_rows[run]))
    start, end = int(trie.starts[run]), int(trie.ends[run])
    segment = trie.bottoms[run]
    path: list[Segment] = []
    while segment.parent is not None and segment.end_position > start:
        path.append(segment)
        segment = segment.parent
    if start < 0:
        path += reversed(imports.lead(segment))
    planned = []
    for segment in path:
        planned.append(
            PlannedSegment(
                serial=segment.serial,
                namespace=segment.namespace,
                start_position=segment.start_position,
                end_position=_end_of(segment, end),
                num_rows=int(trie.num_rows[run]),
                decision="own" if num_pieces else "folded",
                item_start_position=max(0, int(decisions.item_starts[run])),
                num_pieces=num_pieces,
                own_cost=own_cost,
                folded_cost=folded_cost,
                reason=reason,
            )
        )
    return planned[::-1]


def _end_of(segment: Segment, run_end: int) -> int:
    """Modules are read in whole, and the last segment of a run perhaps in part."""
    return segment.end_position if segment.is_module else min(segment.end_position, run_end)


def _planned_module(group: ModuleGroup, module: Segment, num_pieces: int) -> PlannedSegment:
    costs = f"{group.own_cost:.6g} in an item of its own, {group.folded_cost:.6g} with each set"
    return PlannedSegment(
        serial=module.serial,
        namespace=module.namespace,
        start_position=0,
        end_position=len(module),
        num_rows=group.num_rows,
        decision="own",
        item_start_position=0,
        num_pieces=num_pieces,
        own_cost=group.own_cost,
        folded_cost=group.folded_cost,
        reason=f"a module of {group.num_sets} sets is cheaper alone for {group.num_rows} rows: "
        f"{costs}",
    )


def _reason(decisions: Decisions, run: int, num_rows: int) -> str:
    own_cost, folded_cost = decisions.own_costs[run], decisions.folded_costs[run]
    costs = f"{own_cost:.6g} in an item of its own, {folded_cost:.6g} folded into those beneath"
    if decisions.owns[run]:
        reason, saves = f"own item is cheaper for {num_rows} rows: {costs}", "saves"
    elif own_cost < folded_cost:
        reason = f"own item would pay for {num_rows} rows, but sharing as a whole not: {costs}"
        saves = "would save"
    else:
        return f"own item would not pay for {num_rows} rows: {costs}"
    if decisions.owns[run] and decisions.merging_cost == 0:
        return reason
    saved, merging = f"{decisions.saved_cost:.6g}", f"{decisions.merging_cost:.6g}"
    return f"{reason}; the step as a whole: sharing {saves} {saved}, and merging costs {merging}"
