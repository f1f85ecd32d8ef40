"""What a plan that was made anew did, in numbers."""

import numpy as np

from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.decide import Decisions
from treeserve.scheduler.plan.layout import Items, Pieces, States
from treeserve.scheduler.plan.trie import BoolArray, Readers, Trie
from treeserve.scheduler.step import Int32Array, PlanCounts


def count_plan(
    trie: Trie,
    decisions: Decisions,
    readers: Readers,
    items: Items,
    pieces: Pieces,
    states: States,
    cost_model: CostModel,
) -> PlanCounts:
    """The counts of the plan that all these make up."""
    num_items, num_states = len(pieces.items), len(states.item_rows)
    num_shared = int(pieces.firsts[items.num_shared])
    shared_rows = np.diff(states.item_row_starts[: num_shared + 1])
    node_rows = shared_rows[pieces.firsts[: items.num_shared]]
    max_row_states = int(np.diff(states.row_state_starts).max(initial=0))
    tokens_read = int(pieces.lengths.sum())
    is_alone = np.append(decisions.lowest_own, -1)[trie.reader_runs] < 0
    for group in readers.imports.groups:
        is_alone[group.readers] = False
    branches = np.bincount(np.append(trie.parents, trie.reader_runs) + 1, minlength=1)[1:]
    return PlanCounts(
        num_shared_items=num_shared,
        num_private_items=num_items - num_shared,
        num_cut_pieces=num_items - len(items.starts),
        num_folded_segments=int(trie.num_segments[~decisions.owns].sum()),
        num_outweighed_segments=int(trie.num_segments[_are_outweighed(decisions)].sum()),
        num_plain_rows=int(readers.num_rows[is_alone].sum()),
        tokens_read=tokens_read,
        tokens_read_flat=int(readers.ends.sum() + readers.imports.num_tokens.sum()),
        num_module_items=int(pieces.firsts[items.num_shared] - pieces.firsts[len(items.own_runs)]),
        module_tokens_read=sum(group.num_tokens for group in readers.imports.groups),
        num_shared_rows=int(shared_rows.sum()),
        num_node_rows=int(node_rows.sum()),
        node_rows_log2=_count_by_log2(node_rows),
        max_shared_rows=int(shared_rows.max(initial=0)),
        max_row_states=max_row_states,
        max_branches=int(branches.max(initial=0)),
        predicted_cost=float(
            cost_model.token_cost * tokens_read
            + cost_model.item_cost * num_items
            + cost_model.state_cost * num_states
            + cost_model.sharing_cost * (max_row_states > 1)
        ),
    )


def _are_outweighed(decisions: Decisions) -> BoolArray:
    """[num_runs] whose own item would have been cheaper, had the step been shared at all."""
    return ~decisions.owns & (decisions.own_costs < decisions.folded_costs)


def _count_by_log2(sizes: Int32Array) -> tuple[int, ...]:
    """How many are 1, 2, 3 or 4, 5 to 8, and so on."""
    _, exponents = np.frexp(sizes - 0.5)
    return tuple(np.bincount(exponents).tolist())
