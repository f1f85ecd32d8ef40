"""What is shared: for each run of the trie its own item, or none and its tokens read beneath."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.trie import BoolArray, Readers, Trie
from treeserve.scheduler.step import Int64Array

MAX_FOLDED_RUNS = 16
"""An item carries the tokens of at most so many runs above its own, so that the work for chains of
branches that are nested deeply is linear in their number."""


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """[num_runs] each, in the order of the trie's runs."""

    owns: BoolArray
    """Whether the run has its own item; else it is folded into what lies beneath."""
    item_starts: Int64Array
    """Where that item starts, or would: after the lowest item above."""
    below_starts: Int64Array
    """Where the items beneath start."""
    lowest_own: Int64Array
    """The lowest run with an item at the run or above it, -1 for none."""
    own_costs: NDArray[np.float64]
    """Of the run and all beneath it, with its own item."""
    folded_costs: NDArray[np.float64]
    """Of the same where it is folded."""
    saved_cost: float = 0.0
    """What sharing saves in the step as a whole, or would, against a single state for every row;
    merging is not counted."""
    merging_cost: float = 0.0
    """What it has to save more than: nothing where no row or every plan merges."""


def decide(trie: Trie, readers: Readers, cost_model: CostModel) -> Decisions:
    """The cheapest choice by the cost model: shared as cheaply as can be, or nothing to merge."""
    shared = _share(trie, readers, cost_model)
    if not shared.owns.any():
        return shared
    unmerged = _leave_unmerged(shared, trie, readers, cost_model)
    is_first = shared.item_starts == trie.first_starts
    merges = (shared.owns & ~(unmerged.owns & is_first)).any()
    # A group of modules is a state more, whatever becomes of the rest.
    must_merge = readers.imports.groups or cost_model.must_merge(readers.ends - readers.starts)
    is_free = not merges or must_merge
    decisions = replace(
        shared,
        saved_cost=unmerged.saved_cost,
        merging_cost=0.0 if is_free else cost_model.sharing_cost,
    )
    if decisions.saved_cost > decisions.merging_cost:
        return decisions
    return replace(unmerged, merging_cost=decisions.merging_cost)


def _share(trie: Trie, readers: Readers, cost_model: CostModel) -> Decisions:
    """The least sum of the items' costs that folds at most MAX_FOLDED_RUNS in a row.

    Entry f of `below[k]` is the least cost of everything beneath run k if the items there carry f
    runs, the lowest ones from k on upwards; none of them if k has its own item.
    """
    width = min(len(trie.levels), MAX_FOLDED_RUNS + 1)
    starts = _starts_above(trie, width)
    below = _leaf_costs(trie, starts, readers, cost_model)
    if width > MAX_FOLDED_RUNS:
        below[:, width] = np.inf
    lengths = trie.ends[:, None] - starts
    own = cost_model.items_cost(lengths, trie.num_rows[:, None])
    flat_below = below.reshape(-1)
    columns = np.arange(width)
    for level in reversed(trie.levels):
        own[level] += below[level, :1]
        best = np.minimum(own[level], below[level, 1:])
        parents = trie.parents[level]
        if parents[0] >= 0:
            targets = parents[:, None] * (width + 1) + columns
            np.add.at(flat_below, targets.reshape(-1), best.reshape(-1))
    return _descend(trie, starts, own, below[:, 1:])


def _starts_above(trie: Trie, width: int) -> Int64Array:
    """[num_runs, width]: entry f is where an item starts that carries f runs above its own."""
    starts = np.append(trie.starts, 0)
    parents = np.append(trie.parents, -1)
    above = np.arange(len(trie))
    columns = np.empty((len(trie), width), dtype=np.int64)
    for folded in range(width):
        columns[:, folded] = starts[above]
        above = parents[above]
    return columns


def _leaf_costs(
    trie: Trie, starts: Int64Array, readers: Readers, cost_model: CostModel
) -> NDArray[np.float64]:
    """[num_runs, width + 1]: what the readers directly beneath cost if their items carry f runs."""
    below_starts = np.concatenate([trie.ends[:, None], starts], axis=1)
    sharing = np.flatnonzero(trie.reader_runs >= 0)
    runs = trie.reader_runs[sharing]
    lengths = np.maximum(readers.ends[sharing, None] - below_starts[runs], 0)
    costs = cost_model.items_cost(lengths, readers.num_rows[sharing, None])
    below = [np.bincount(runs, weights=column, minlength=len(trie)) for column in costs.T]
    return np.stack(below, axis=1)


def _descend(
    trie: Trie, starts: Int64Array, own: NDArray[np.float64], folded: NDArray[np.float64]
) -> Decisions:
    num_runs = len(trie)
    chosen = np.zeros(num_runs, dtype=np.int64)
    # One entry more than there are runs: what a parent of -1 finds.
    owns = np.zeros(num_runs + 1, dtype=np.bool_)
    num_folded = np.zeros(num_runs + 1, dtype=np.int64)
    lowest_own = np.full(num_runs + 1, -1, dtype=np.int64)
    for level in trie.levels:
        parents, runs = trie.parents[level], np.arange(level.start, level.stop)
        carried = num_folded[parents]
        is_own = own[runs, carried] < folded[runs, carried]
        chosen[level], owns[level] = carried, is_own
        num_folded[level] = np.where(is_own, 0, carried + 1)
        lowest_own[level] = np.where(is_own, runs, lowest_own[parents])
    every = np.arange(num_runs)
    item_starts = starts[every, chosen]
    return Decisions(
        owns=owns[:-1],
        item_starts=item_starts,
        below_starts=np.where(owns[:-1], trie.ends, item_starts),
        lowest_own=lowest_own[:-1],
        own_costs=own[every, chosen],
        folded_costs=folded[every, chosen],
    )


def _leave_unmerged(
    shared: Decisions, trie: Trie, readers: Readers, cost_model: CostModel
) -> Decisions:
    """The cheapest choice that leaves every row a single state, if nothing has to be cut.

    Only what ends with a run for all of its readers can still be read together, from its start.
    """
    sharing = np.flatnonzero(trie.reader_runs >= 0)
    runs, ends = trie.reader_runs[sharing], readers.ends[sharing]
    alone = cost_model.items_cost(ends - readers.starts[sharing], readers.num_rows[sharing])
    folded = np.bincount(runs, weights=alone, minlength=len(trie))
    own = cost_model.items_cost(trie.ends - trie.first_starts, trie.num_rows)
    owns = _ends_readers(trie, runs, ends) & (own <= folded)
    roots = trie.levels[0]
    least = np.minimum(shared.own_costs[roots], shared.folded_costs[roots]).sum()
    return Decisions(
        owns=owns,
        item_starts=np.where(owns, trie.first_starts, shared.item_starts),
        below_starts=np.where(owns, trie.ends, trie.first_starts),
        lowest_own=np.where(owns, np.arange(len(trie)), -1),
        own_costs=np.where(owns, own, shared.own_costs),
        folded_costs=np.where(owns, folded, shared.folded_costs),
        saved_cost=float(np.where(owns, own, folded).sum() - least),
    )


def _ends_readers(trie: Trie, runs: Int64Array, ends: Int64Array) -> BoolArray:
    """[num_runs] whether nobody beneath the run reads on; readers end at `ends`, below `runs`."""
    deepest = np.zeros(len(trie), dtype=np.int64)
    np.maximum.at(deepest, runs, ends)
    ends_all: BoolArray = deepest <= trie.ends
    ends_all[trie.parents[trie.parents >= 0]] = False
    return ends_all
