"""The slow truth about costs: the least over every choice of what is shared."""

import itertools

import numpy as np
from made_up_batch import Batch, items

from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.step import Plan
from treeserve.scheduler.tree.segment import Segment


def best_cost(batch: Batch, cost_model: CostModel) -> float:
    """The least cost over every choice of shared segments; the slow truth."""
    readers = batch.readers()
    runs: dict[frozenset[int], Segment] = {}
    for segment in (s for reader in readers for s in reader.path):
        runs[frozenset(i for i, r in enumerate(readers) if segment in r.path)] = segment
    shared = [last for sharers, last in runs.items() if len(sharers) > 1]
    costs = []
    for picks in itertools.product([False, True], repeat=len(shared)):
        ends_item = dict(zip(shared, picks, strict=True))
        groups: dict[tuple[int, int, object], int] = {}
        merges = False
        for index, reader in enumerate(readers):
            start = num_pieces = 0
            for segment in (*reader.path, None):
                if segment is None:
                    key = (start, reader.end_position, index)
                elif ends_item.get(segment):
                    sharers = [r for r in readers if segment in r.path]
                    end = max(min(segment.end_position, r.end_position) for r in sharers)
                    key = (start, end, segment)
                else:
                    continue
                if key[1] > start:
                    groups[key] = groups.get(key, 0) + reader.num_rows
                    num_pieces += -(-(key[1] - start) // (cost_model.max_item_tokens or key[1]))
                    start = key[1]
            merges |= num_pieces > 1
        each = [(end - start, rows) for (start, end, _), rows in groups.items()]
        costs.append(total_cost(each, merges, cost_model))
    return min(costs)


def total_cost(each: list[tuple[int, int]], merges: bool, cost_model: CostModel) -> float:
    """Of items with so many tokens and rows."""
    tokens, rows = np.array(each).T
    return float(cost_model.items_cost(tokens, rows).sum()) + cost_model.sharing_cost * merges


def cost_of(plan: Plan, cost_model: CostModel) -> float:
    """By the items as they are, before rows that see nothing of an item are left out."""
    merges = len(plan.row_states) > plan.num_rows
    return total_cost([(length, len(rows)) for _, length, rows in items(plan)], merges, cost_model)
