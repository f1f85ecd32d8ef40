"""What the live tree and the last plan look like to a caller, within bounds, as plain data."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from treeserve.scheduler.plan.snapshot import PlannedSegment, PlanSnapshot
from treeserve.scheduler.step import PlanCounts
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Segment

if TYPE_CHECKING:
    from treeserve.engine import Engine
    from treeserve.loop import EngineLoop

MAX_NODES = 2048
"""In one view: what a look may cost the streams, and a message's size."""
MAX_ENGINE_SHARE = 0.005
"""Of the engine's time, for all looks together."""
MAX_COUNTED = 20_000
"""Nodes beyond these."""
MAX_NODE_TOKENS = 128
"""Token ids of one node that are shown."""
_MAX_KEPT_VIEWS = 16

_ResultT = TypeVar("_ResultT")
_pause = asyncio.sleep


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose nodes are seen: one namespace's and the public ones, or, with None, everybody's."""

    namespace: str | None

    def sees(self, namespace: str) -> bool:
        return self.namespace is None or namespace in (self.namespace, PUBLIC_NAMESPACE)

    def sees_use_of(self, namespace: str) -> bool:
        """How much a public node is used tells of other tenants, whose business that is."""
        return self.namespace is None or namespace == self.namespace


@dataclass(frozen=True, slots=True)
class NodeUse:
    """How much a node is used, and by how many."""

    num_pins: int
    """Live requests and samples that need it."""
    num_hits: int
    """Requests whose path it was on."""
    num_rows: int | None
    """Rows beneath it in the last step's plan; None where fewer than two samples read it."""
    retained_weight: float
    """0: not retained."""
    age_seconds: float = field(compare=False)
    """Since it was last used; 0 while it is pinned."""


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One segment of the tree."""

    node_id: int
    parent_id: int | None
    """None for the first of its namespace."""
    namespace: str
    start_position: int
    num_tokens: int
    num_computed_tokens: int
    num_pages: int
    num_children: int
    """In the scope, shown or not."""
    use: NodeUse | None
    """None where it is not the caller's business."""
    token_ids: tuple[int, ...]
    """The first MAX_NODE_TOKENS; none unless they are shown."""


@dataclass(frozen=True, slots=True)
class TreeView:
    """A tree cut to a number of nodes: those nearest to the root, parents before children."""

    nodes: tuple[TreeNode, ...]
    num_left_out_nodes: int
    num_left_out_tokens: int
    num_tokens: int
    """In the scope, shown or not."""
    is_partly_counted: bool = False
    """Still more are left out than MAX_COUNTED: the numbers are lower bounds."""


@dataclass(frozen=True, slots=True)
class PlanView:
    """The last step's plan; what is of the step as a whole is None unless everybody's is seen."""

    segments: tuple[PlannedSegment, ...]
    num_left_out_segments: int
    counts: PlanCounts | None
    saved_cost: float | None
    merging_cost: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the tree found, and when."""

    num_changes: int
    """The loop's, at that time."""
    taken_at: float
    """Seconds, on the inspection's clock."""
    view: TreeView


class Inspection:
    """Looks at an engine that runs; changes nothing. Belongs to one event loop.

    Who looks at the same scope at the same time shares one look.

    Args:
        loop: Started.
        shows_tokens: Whether views hold token ids, which are what tenants wrote.
        clock: Seconds, for the age of looks and the time between them.
        cost_clock: Seconds of work of the thread that asks it: what looks cost. Time in which other
            processes had its core is not theirs.
    """

    def __init__(
        self,
        loop: "EngineLoop",
        *,
        shows_tokens: bool = False,
        clock: Callable[[], float] = time.monotonic,
        cost_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._cost_clock = cost_clock
        self._turn = asyncio.Lock()
        self._next_look_at = 0.0
        self._shows_tokens = shows_tokens
        self._kept: dict[Scope, Look] = {}
        self._taking: dict[Scope, asyncio.Task[Look]] = {}
        self.num_looks = 0
        """That the engine was asked for."""
        self.look_seconds = 0.0
        """That they took of the engine's thread."""

    @property
    def num_changes(self) -> int:
        """While it is that of a look, the look still holds."""
        return self._loop.num_changes

    async def tree(self, scope: Scope, max_age_seconds: float = 0.0) -> "Look":
        """At most MAX_NODES nodes as they are, or, within that time, as they were not long ago.

        With no time at all ages are right too; else they are those of the look.

        Raises:
            EngineStopped: The engine has stopped.
        """
        wanted, kept = self._loop.num_changes, self._kept.get(scope)
        if max_age_seconds and kept is not None and self._loop.healthy:
            age = self._clock() - kept.taken_at
            if kept.num_changes == wanted or age < max_age_seconds:
                return kept
        look = await self._join_look(scope)
        while look.num_changes < wanted:
            # Another's look, which began before what the caller has seen happen.
            look = await self._join_look(scope)
        return look

    async def plan(self, scope: Scope) -> PlanView:
        """The last step's plan; raises as `tree`."""
        return await self.ask(lambda engine: view_plan(engine, scope))

    @property
    def shows_tokens(self) -> bool:
        """Whether views may hold what tenants wrote."""
        return self._shows_tokens

    async def _join_look(self, scope: Scope) -> "Look":
        taking = self._taking.get(scope)
        if taking is None or taking.done():
            taking = self._taking[scope] = asyncio.create_task(self._look(scope))
            taking.add_done_callback(lambda done: self._forget(scope, done))
        # One who goes away must not end the look of the others.
        return await asyncio.shield(taking)

    def _forget(self, scope: Scope, done: "asyncio.Task[Look]") -> None:
        if self._taking.get(scope) is done:
            del self._taking[scope]
        if not done.cancelled():
            # Whoever waits raises it; if all have gone away nobody does, and nobody minds.
            done.exception()

    async def _look(self, scope: Scope) -> "Look":
        def take(engine: "Engine") -> Look:
            view = view_tree(engine, scope, MAX_NODES, shows_tokens=self._shows_tokens)
            return Look(self._loop.num_changes, self._clock(), view)

        kept = await self.ask(take)
        if len(self._kept) >= _MAX_KEPT_VIEWS:
            self._kept.clear()
        self._kept[scope] = kept
        return kept

    async def ask(self, function: "Callable[[Engine], _ResultT]") -> _ResultT:
        """Have the engine's thread look at something, and change nothing; raises as `tree`.

        One look after another, and after a long one a long time, so that the streams go on.
        """

        def timed(engine: "Engine") -> tuple[_ResultT, float]:
            started = self._cost_clock()
            return function(engine), self._cost_clock() - started

        async with self._turn:
            await _pause(max(0.0, self._next_look_at - self._clock()))
            self.num_looks += 1
            result, seconds = await self._loop.look(timed)
            self.look_seconds += seconds
            self._next_look_at = self._clock() + seconds * (1 / MAX_ENGINE_SHARE - 1)
            return result


def view_tree(
    engine: "Engine", scope: Scope, max_nodes: int, *, shows_tokens: bool = False
) -> TreeView:
    """What the scope sees of the tree, in the engine's thread.

    Its cost is in proportion to the nodes that are shown, and a small part of that for each one
    that is counted.
    """
    tree, _ = engine.scheduler.insides()
    rows = {s.serial: s.num_rows for s in engine.scheduler.plan_snapshot().segments}
    now = tree.clock()
    waiting: deque[Segment] = deque(tops(tree, scope))
    nodes: list[TreeNode] = []
    while waiting and len(nodes) < max_nodes:
        segment = waiting.popleft()
        children = children_of(segment, scope)
        waiting.extend(children)
        use = None
        if scope.sees_use_of(segment.namespace):
            use = _view_use(segment, rows.get(segment.serial), now)
        shown = segment.tokens[:MAX_NODE_TOKENS].tolist() if shows_tokens else ()
        nodes.append(_view_node(segment, len(children), use, tuple(shown)))
    num_left_out, num_tokens, is_partial = _count(list(waiting), scope)
    return TreeView(
        tuple(nodes),
        num_left_out,
        num_tokens,
        num_tokens + sum(node.num_tokens for node in nodes),
        is_partial,
    )


def cut_view(view: TreeView, max_nodes: int) -> TreeView:
    """The same with fewer nodes."""
    shown, hidden = view.nodes[:max_nodes], view.nodes[max_nodes:]
    return replace(
        view,
        nodes=shown,
        num_left_out_nodes=view.num_left_out_nodes + len(hidden),
        num_left_out_tokens=view.num_left_out_tokens + sum(node.num_tokens for node in hidden),
    )


def view_plan(engine: "Engine", scope: Scope) -> PlanView:
    """What the scope sees of the last plan, in the engine's thread."""
    plan: PlanSnapshot = engine.scheduler.plan_snapshot()
    if scope.namespace is None:
        return PlanView(
            plan.segments[:MAX_NODES],
            max(0, len(plan.segments) - MAX_NODES),
            plan.counts,
            plan.saved_cost,
            plan.merging_cost,
        )
    own = [s for s in plan.segments if scope.sees_use_of(s.namespace)]
    shown = tuple(replace(s, reason=_own_reason(s.reason)) for s in own[:MAX_NODES])
    return PlanView(shown, max(0, len(own) - MAX_NODES), None, None, None)


def tops(tree: RadixTree, scope: Scope) -> list[Segment]:
    """The first segments of each namespace that the scope sees."""
    return [
        child
        for root in tree.roots()
        if scope.sees(root.namespace)
        for child in root.children.values()
    ]


def children_of(segment: Segment, scope: Scope) -> list[Segment]:
    """Those of a segment that the scope sees."""
    children = segment.children.values()
    if scope.namespace is None or segment.namespace != PUBLIC_NAMESPACE:
        return list(children)
    return [child for child in children if scope.sees(child.namespace)]


def _count(waiting: list[Segment], scope: Scope) -> tuple[int, int, bool]:
    """Segments from these on and their tokens, and whether that is not all of them."""
    num_segments = num_tokens = 0
    while waiting and num_segments < MAX_COUNTED:
        segment = waiting.pop()
        num_segments += 1
        num_tokens += len(segment.tokens)
        if segment.children:
            waiting += children_of(segment, scope)
    return num_segments, num_tokens, bool(waiting)


def _view_use(segment: Segment, num_rows: int | None, now: float) -> NodeUse:
    return NodeUse(
        num_pins=segment.pins,
        num_hits=segment.hits,
        num_rows=num_rows,
        retained_weight=segment.retained_weight,
        age_seconds=0.0 if segment.pins else max(0.0, now - segment.last_used_at),
    )


def _view_node(
    segment: Segment, num_children: int, use: NodeUse | None, token_ids: tuple[int, ...]
) -> TreeNode:
    parent = segment.parent
    assert parent is not None
    return TreeNode(
        node_id=segment.serial,
        parent_id=None if parent.is_root else parent.serial,
        namespace=segment.namespace,
        start_position=segment.start_position,
        num_tokens=len(segment),
        num_computed_tokens=segment.num_computed,
        num_pages=len(segment.pages),
        num_children=num_children,
        use=use,
        token_ids=token_ids,
    )


def _own_reason(reason: str) -> str:
    """Without what sharing saves in the step as a whole, which is other tenants' too."""
    return reason.partition("; the step as a whole")[0]
