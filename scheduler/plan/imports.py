"""Modules in a plan: which have items of their own, and which come before their readers' tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.step import Int64Array
from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class ModuleGroup:
    """Modules with the same readers, of several sets: one item, at negative positions."""

    modules: tuple[Segment, ...]
    readers: Int64Array
    """[num_readers] ascending; they lie anywhere among the step's"""
    num_rows: int
    num_sets: int
    own_cost: float
    folded_cost: float
    """Where the modules are read with each set's own tokens, as cheaply as that can be."""

    @property
    def num_tokens(self) -> int:
        return _num_tokens(self.modules)


@dataclass(frozen=True, slots=True, eq=False)
class Imports:
    """What the readers of a step import.

    A module that one set alone imports in this step comes before that set's own tokens, as if it
    were their beginning: whether it is read once or by each reader is then decided as for any
    segment. One of several sets has an item of its own where that pays, else it comes before the
    tokens of each.
    """

    leads: dict[Segment, tuple[Segment, ...]]
    """By root: the modules before its own tokens; roots without any are not in it."""
    groups: tuple[ModuleGroup, ...]
    num_tokens: Int64Array
    """[num_readers] in all modules that each imports"""

    def lead(self, leaf: Segment) -> tuple[Segment, ...]:
        return self.leads.get(leaf.root, ())

    def starts(self, leaves: Sequence[Segment]) -> Int64Array:
        """[num_leaves] where what is read with each path begins: 0, or before that."""
        if not self.leads:
            return np.zeros(len(leaves), dtype=np.int64)
        return np.array([-_num_tokens(self.lead(leaf)) for leaf in leaves], dtype=np.int64)


def find_imports(
    leaves: Sequence[Segment], num_rows: Int64Array, cost_model: CostModel, *, shares: bool
) -> Imports:
    """Groups the modules of the readers with these leaves.

    Args:
        leaves: [num_readers]
        num_rows: [num_readers]
        cost_model: Decides where an item of its own pays.
        shares: False: never.
    """
    num_tokens = np.zeros(len(leaves), dtype=np.int64)
    if not any(leaf.modules for leaf in leaves):
        return Imports({}, (), num_tokens)
    readers: dict[Segment, list[int]] = {}
    for reader, leaf in enumerate(leaves):
        if leaf.modules:
            readers.setdefault(leaf.root, []).append(reader)
    groups = _group(readers, num_rows, cost_model) if shares else ()
    grouped = {module for group in groups for module in group.modules}
    leads = {}
    for root, indices in readers.items():
        num_tokens[indices] = _num_tokens(root.modules)
        lead = tuple(module for module in root.modules if module not in grouped)
        if lead:
            leads[root] = lead
    return Imports(leads, groups, num_tokens)


def _group(
    readers: dict[Segment, list[int]], num_rows: Int64Array, cost_model: CostModel
) -> tuple[ModuleGroup, ...]:
    """The groups that pay, if they pay together for merging at all."""
    roots_of: dict[Segment, list[Segment]] = {}
    for root in readers:
        for module in root.modules:
            roots_of.setdefault(module, []).append(root)
    by_roots: dict[tuple[Segment, ...], list[Segment]] = {}
    for module, roots in roots_of.items():
        if len(roots) > 1:
            by_roots.setdefault(tuple(roots), []).append(module)
    groups, saved = [], 0.0
    for shared_by, modules in by_roots.items():
        rows = np.array([num_rows[readers[root]].sum() for root in shared_by], dtype=np.int64)
        own_cost, folded_cost = _costs(_num_tokens(modules), rows, cost_model)
        if own_cost < folded_cost:
            group = ModuleGroup(
                modules=tuple(modules),
                readers=np.sort(np.concatenate([readers[root] for root in shared_by])),
                num_rows=int(rows.sum()),
                num_sets=len(shared_by),
                own_cost=own_cost,
                folded_cost=folded_cost,
            )
            groups.append(group)
            saved += folded_cost - own_cost
    return tuple(groups) if saved > cost_model.sharing_cost else ()


def _costs(num_tokens: int, num_rows: Int64Array, cost_model: CostModel) -> tuple[float, float]:
    """Of one item for all the sets, and of the cheaper for each: one item, or each row's own."""
    together = cost_model.items_cost(np.array([num_tokens]), num_rows.sum())
    each = cost_model.items_cost(np.full_like(num_rows, num_tokens), num_rows)
    alone = cost_model.token_cost * num_tokens * num_rows
    return float(together.sum()), float(np.minimum(each, alone).sum())


def _num_tokens(modules: Sequence[Segment]) -> int:
    return sum(len(module) for module in modules)
