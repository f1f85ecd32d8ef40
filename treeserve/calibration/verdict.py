"""The planner's verdict on a synthetic tree: whether it would share there."""

from dataclasses import dataclass

import numpy as np

from treeserve.calibration.workloads import Tree
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.planner import Planner
from treeserve.scheduler.step import Plan
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.segment import Root, Segment


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    leaf: Segment
    tail: Tail


def shares(tree: Tree, cost_model: CostModel) -> bool:
    """Whether the planner shares anything, with these costs and a sample for each of the rows."""
    return plan_of(tree, cost_model).counts.num_shared_items > 0


def plan_of(tree: Tree, cost_model: CostModel) -> Plan:
    """The plan of a step, with these costs and a sample for each of the rows."""
    samples = _samples(tree)
    position = sum(level.num_tokens for level in tree) - 1
    positions = np.full(len(samples), position, dtype=np.int32)
    return Planner(cost_model, "on").plan(samples, [], positions)


def _samples(tree: Tree) -> list[_Sample]:
    """In slots that say nothing: no decision depends on them."""
    *upper, tails = tree
    nodes: list[Segment] = [Root("", np.zeros(0, dtype=np.int32))]
    for level in upper:
        above = [nodes[node * len(nodes) // level.num_nodes] for node in range(level.num_nodes)]
        nodes = [_segment(parent, level.num_tokens) for parent in above]
    samples = []
    for row in range(tails.num_nodes):
        leaf = nodes[row * len(nodes) // tails.num_nodes]
        tail = Tail(leaf.end_position, tails.num_tokens, 0)
        tail.tokens = [0] * tails.num_tokens
        tail.page_slots = np.zeros(tails.num_tokens, dtype=np.int32)
        samples.append(_Sample(leaf, tail))
    return samples


def _segment(parent: Segment, num_tokens: int) -> Segment:
    return Segment(
        parent=parent,
        tokens=np.zeros(num_tokens, dtype=np.int32),
        slots=np.zeros(num_tokens, dtype=np.int32),
        pages=np.zeros(0, dtype=np.int32),
        start_position=parent.end_position,
        num_computed=num_tokens,
        serial=0,
    )
