"""Both plans of a tree compute the same attention; else their times could not be compared."""

import numpy as np
import pytest
from attention.plans import row_context

from treeserve.calibration.workloads import (
    Level,
    cut_workload,
    flat_workload,
    make_step,
    num_flat_tokens,
    num_stored_tokens,
    scattered_slots,
    shared_workload,
    trees_for,
)

TREES = [
    (Level(1, 50), Level(3, 7)),
    (Level(2, 33), Level(6, 5)),
    (Level(1, 40), Level(2, 20), Level(8, 3)),
]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("cut", [None, 16, 1000])
def test_shared_and_flat_let_every_row_see_the_same_tokens_once(tree, cut):
    slots = scattered_slots(num_stored_tokens(tree))
    shared = make_step(cut_workload(shared_workload(tree, slots), cut))
    flat = make_step(cut_workload(flat_workload(tree, slots), cut))
    length = sum(level.num_tokens for level in tree)
    for row in range(tree[-1].num_nodes):
        context = row_context(shared, row, window=None)
        assert len(set(context)) == length
        assert context == row_context(flat, row, window=None)
    assert len(flat.plan.item_slots) == num_flat_tokens(tree)
    assert len(shared.plan.item_slots) == num_stored_tokens(tree)
    for workload in (shared_workload(tree, slots), flat_workload(tree, slots)):
        assert cut_workload(workload, cut).num_stored_tokens == num_stored_tokens(tree)


def test_a_cut_item_is_no_longer_than_asked_for():
    workload = flat_workload(TREES[0], scattered_slots(71))
    assert {len(item.slots) for item in cut_workload(workload, 16).items} <= set(range(1, 17))


def test_slots_are_all_there_and_in_no_order():
    slots = scattered_slots(100)
    assert sorted(slots.tolist()) == list(range(100))
    assert (np.diff(slots) < 0).any()


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_trees_come_shortest_first_so_that_measuring_can_stop(device_type):
    trees = trees_for(device_type)
    lengths = [num_flat_tokens(tree) for tree in trees]
    assert lengths == sorted(lengths)
    assert len(set(trees)) == len(trees)
