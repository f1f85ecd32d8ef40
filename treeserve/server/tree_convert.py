"""Turns requests of TreeService into scopes and limits, and views into protobuf messages."""

import math
from dataclasses import dataclass

from treeserve.errors import InvalidRequest
from treeserve.inspection import MAX_NODES, NodeUse, PlanView, TreeNode, TreeView, cut_view
from treeserve.pb import tree_pb2 as pb
from treeserve.scheduler.plan.snapshot import PlannedSegment
from treeserve.server.wire import parse

DEFAULT_MAX_NODES = 256
MIN_INTERVAL_SECONDS = 0.1
MAX_INTERVAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TreeQuery:
    """What is asked of the tree."""

    max_nodes: int
    all_namespaces: bool


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """What is asked of the tree, again and again."""

    tree: TreeQuery
    interval_seconds: float


def read_get_tree(data: bytes) -> TreeQuery:
    """Raises InvalidRequest for what is malformed or out of range."""
    return _read_query(parse(pb.GetTreeRequest, data))


def read_watch_tree(data: bytes) -> WatchQuery:
    """Raises InvalidRequest for what is malformed or out of range."""
    request = parse(pb.WatchTreeRequest, data)
    seconds = request.interval_seconds if request.HasField("interval_seconds") else 1.0
    if math.isnan(seconds) or not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        raise InvalidRequest(
            "interval_seconds",
            f"must be between {MIN_INTERVAL_SECONDS:g} and {MAX_INTERVAL_SECONDS:g}, "
            f"got {seconds:g}",
        )
    return WatchQuery(_read_query(request), seconds)


def read_get_plan(data: bytes) -> bool:
    """Whether everybody's segments are asked for; raises InvalidRequest for what is malformed."""
    return parse(pb.GetPlanRequest, data).all_namespaces


def write_tree(view: TreeView, max_nodes: int) -> pb.Tree:
    """At most so many of the view's nodes."""
    cut = cut_view(view, max_nodes)
    return pb.Tree(
        nodes=[_write_node(node) for node in cut.nodes],
        left_out_nodes=cut.num_left_out_nodes,
        left_out_tokens=cut.num_left_out_tokens,
        tokens=cut.num_tokens,
        is_partly_counted=cut.is_partly_counted,
    )


def write_plan(view: PlanView) -> pb.GetPlanResponse:
    """All of a view."""
    return pb.GetPlanResponse(
        nodes=[_write_planned(segment) for segment in view.segments],
        left_out_nodes=view.num_left_out_segments,
        totals=_write_totals(view),
    )


def _read_query(request: pb.GetTreeRequest | pb.WatchTreeRequest) -> TreeQuery:
    max_nodes = request.max_nodes if request.HasField("max_nodes") else DEFAULT_MAX_NODES
    if not 1 <= max_nodes <= MAX_NODES:
        raise InvalidRequest("max_nodes", f"must be between 1 and {MAX_NODES}, got {max_nodes}")
    return TreeQuery(max_nodes, request.all_namespaces)


def _write_node(node: TreeNode) -> pb.TreeSegment:
    return pb.TreeSegment(
        id=node.node_id,
        parent_id=node.parent_id,
        namespace=node.namespace,
        start_position=node.start_position,
        tokens=node.num_tokens,
        computed_tokens=node.num_computed_tokens,
        pages=node.num_pages,
        children=node.num_children,
        use=None if node.use is None else _write_use(node.use),
        token_ids=node.token_ids,
    )


def _write_use(use: NodeUse) -> pb.SegmentUse:
    return pb.SegmentUse(
        pins=use.num_pins,
        hits=use.num_hits,
        rows=use.num_rows,
        retained_weight=use.retained_weight,
        age_seconds=use.age_seconds,
    )


def _write_planned(segment: PlannedSegment) -> pb.PlannedNode:
    return pb.PlannedNode(
        node_id=segment.serial,
        namespace=segment.namespace,
        start_position=segment.start_position,
        end_position=segment.end_position,
        rows=segment.num_rows,
        is_shared=segment.decision == "own",
        pieces=segment.num_pieces,
        shared_cost=segment.own_cost,
        folded_cost=segment.folded_cost,
        reason=segment.reason,
    )


def _write_totals(view: PlanView) -> pb.PlanTotals | None:
    if view.counts is None:
        return None
    return pb.PlanTotals(
        shared_items=view.counts.num_shared_items,
        private_items=view.counts.num_private_items,
        folded_segments=view.counts.num_folded_segments,
        tokens_read=view.counts.tokens_read,
        tokens_read_flat=view.counts.tokens_read_flat,
        saved_cost=view.saved_cost,
        merging_cost=view.merging_cost,
    )
