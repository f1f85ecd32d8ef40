"""The whole of the live tree as one look takes it: every node a scope sees, and the last plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from treeserve.inspection import (
    MAX_COUNTED,
    PlanView,
    Scope,
    children_of,
    tops,
    view_plan,
)
from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE

if TYPE_CHECKING:
    from treeserve.engine import Engine

NO_PARENT = -1


class ForestNode(NamedTuple):
    """One segment; as cheap to make as a record can be, for there are thousands in a look."""

    node_id: int
    parent: int
    """Its index in the forest; NO_PARENT for the first of its namespace."""
    namespace: str
    start_position: int
    num_tokens: int
    num_computed_tokens: int
    num_pins: int
    """Live requests and samples that need it; 0 where that is not the caller's business."""
    num_hits: int
    retained_weight: float
    is_module: bool
    """A prompt module, encoded alone, which prompts of any set that imports it read."""
    last_used_at: float
    """On the tree's clock."""
    tokens: Int32Array | None
    """Shared with the tree and never written to; None unless tokens are shown."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Parents before children, siblings in the tree's own order."""

    nodes: tuple[ForestNode, ...]
    is_cut: bool
    """There are more than MAX_COUNTED."""
    now: float
    """On the tree's clock."""
    plan: PlanView
    num_rows: Mapping[int, int]
    """Rows beneath a node in the last step, by its id; of those that several samples read."""


@dataclass(frozen=True, slots=True)
class ForestLook:
    """What a look brings out of the engine's thread, field by field; `read_forest` reads it."""

    columns: tuple[Sequence[Any], ...]
    """In the order of ForestNode's fields."""
    is_cut: bool
    now: float
    plan: PlanView


def take_forest(engine: "Engine", scope: Scope, *, shows_tokens: bool) -> ForestLook:
    """What the scope sees, in the engine's thread; field by field, since that costs least there."""
    tree, _ = engine.scheduler.insides()
    segments = list(tops(tree, scope))
    parents = [NO_PARENT] * len(segments)
    # A module is alone beneath its root.
    are_modules = [segment.is_module for segment in segments[:MAX_COUNTED]]
    # The list grows as it is walked: a queue that nobody pops from.
    for index, segment in enumerate(segments):
        if index >= MAX_COUNTED:
            break
        if segment.children:
            children = children_of(segment, scope)
            segments += children
            parents += [index] * len(children)
    is_cut = len(segments) > MAX_COUNTED
    del segments[MAX_COUNTED:]
    columns = (
        [s.serial for s in segments],
        parents[:MAX_COUNTED],
        [s.namespace for s in segments],
        [s.start_position for s in segments],
        [len(s.tokens) for s in segments],
        [s.num_computed for s in segments],
        [s.pins for s in segments],
        [s.hits for s in segments],
        [s.retained_weight for s in segments],
        are_modules + [False] * (len(segments) - len(are_modules)),
        [s.last_used_at for s in segments],
        [s.tokens for s in segments] if shows_tokens else [None] * len(segments),
    )
    return ForestLook(columns, is_cut, tree.clock(), view_plan(engine, scope))


def read_forest(look: ForestLook, scope: Scope) -> Forest:
    """The same node by node, and without what is not the scope's business; in any thread."""
    nodes = tuple(map(ForestNode._make, zip(*look.columns, strict=True)))
    if not scope.sees_use_of(PUBLIC_NAMESPACE):
        nodes = tuple(_without_use(n) if n.namespace == PUBLIC_NAMESPACE else n for n in nodes)
    return Forest(
        nodes,
        is_cut=look.is_cut,
        now=look.now,
        plan=look.plan,
        num_rows={planned.serial: planned.num_rows for planned in look.plan.segments},
    )


def _without_use(node: ForestNode) -> ForestNode:
    return node._replace(num_pins=0, num_hits=0, retained_weight=0.0, last_used_at=0.0)
