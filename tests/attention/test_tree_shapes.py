"""The trees that treeserve is measured on, scaled down: values of their plans, shared and plain."""

import pytest
import torch
from attention.plans import Item, TreeStep, dense_attention, make_step
from attention.test_backends import Layer

from treeserve.bench.attention.trees import decode_step
from treeserve.scheduler.step import Step

TREES = [
    "1,2,8 | 8,40,3",
    "1,4,8 | 8,40,3",
    "1,2,4,8 | 8,40,40,3",
    "1,18 | 40,3",
    "1,17 | 130,3",
    "1,4,8 | 100,30,3",
    "1,2,4,8 | 70,30,16,3",
    "1,2,3,4,5,6 | 30,8,30,8,3,20",
    "1,5 | 400,40",
    "1,2,4,8 | 16,16,16,16",
    "1,1,1,1 | 20,3,17,5",
    "1,12 | 256,1",
    "6 | 40",
    "1 | 70",
]


def check(step: Step, group: int, num_kv_heads: int) -> None:
    plan = step.plan
    spans = zip(plan.item_slot_starts.tolist(), plan.item_slot_ends.tolist(), strict=True)
    used = sorted({slot for start, end in spans for slot in plan.item_slots[start:end].tolist()})
    tree = TreeStep(step, max(used) + 1, used)
    layer = Layer("triton", tree, group=group, num_kv_heads=num_kv_heads)
    out = layer.attend()
    expected = dense_attention(layer.q, *layer.stored, step, scaling=0.2)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tree", TREES)
def test_values_of_shared_plans(tree):
    check(decode_step(tree, "always"), group=4, num_kv_heads=1)


@pytest.mark.parametrize(("group", "num_kv_heads"), [(16, 1), (4, 2), (1, 4)])
def test_values_of_every_grouping(group, num_kv_heads):
    check(decode_step("1,2,4 | 20,33,2", "always"), group, num_kv_heads)


@pytest.mark.parametrize("tree", ["1,4,8 | 8,20,3", "6 | 40"])
def test_values_of_plain_plans(tree):
    """Every row has one state: the attention kernel writes all there is."""
    step = decode_step(tree, "off")
    assert len(step.plan.item_rows) == step.num_rows
    check(step, group=1, num_kv_heads=2)


def test_values_of_a_comb():
    """Each row leaves the trunk one segment later than the last."""
    num_rows, length = 8, 9
    teeth = [
        Item(list(range(i, num_rows)), [20 * i + j for j in range(length)], i * length)
        for i in range(num_rows)
    ]
    tails = [Item([i], [1000 + i], (i + 1) * length) for i in range(num_rows)]
    positions = [(i + 1) * length for i in range(num_rows)]
    check(make_step([*teeth, *tails], positions, [1000 + i for i in range(num_rows)]), 2, 1)
