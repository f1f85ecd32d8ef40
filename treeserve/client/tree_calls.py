"""The calls of TreeService, and what they return."""

from dataclasses import dataclass

from treeserve.client.call import Call
from treeserve.client.write import write_fields
from treeserve.inspection import NodeUse, TreeNode, TreeView
from treeserve.pb import tree_pb2 as pb


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """A segment that several samples or prompts of the last step read."""

    node_id: int
    namespace: str
    start_position: int
    end_position: int
    num_rows: int
    """Beneath it."""
    is_shared: bool
    """Whether it is read once for all of them; else it is read in each work item beneath."""
    num_pieces: int
    """Into which its work item is cut; 0 if it is folded."""
    shared_cost: float
    """Of the node and all beneath it if it is shared, in the cost model's unit."""
    folded_cost: float
    """Of the same if it is folded."""
    reason: str


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """The step as a whole; costs in the cost model's unit."""

    num_shared_items: int
    num_private_items: int
    num_folded_segments: int
    """Read per sharer, since sharing them would not have paid."""
    tokens_read: int
    tokens_read_flat: int
    """What ordinary attention, every sample alone, would have read."""
    saved_cost: float
    merging_cost: float
    """What `saved_cost` has to exceed where anything has to be merged."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What the last step shared, what it did not share, and why."""

    nodes: tuple[PlannedNode, ...]
    """Uppermost first."""
    num_left_out_nodes: int
    totals: PlanTotals | None
    """None unless everybody's segments are shown."""


def get_tree(max_nodes: int | None, all_namespaces: bool) -> Call[TreeView]:
    """The tree as it is between two steps."""
    request = pb.GetTreeRequest(all_namespaces=all_namespaces)
    write_fields(request, max_nodes=max_nodes)
    return Call("tree", "GetTree", request, _read_view)


def watch_tree(
    interval_seconds: float | None, max_nodes: int | None, all_namespaces: bool
) -> Call[TreeView]:
    """The tree now and whenever it has changed."""
    request = pb.WatchTreeRequest(all_namespaces=all_namespaces)
    write_fields(request, interval_seconds=interval_seconds, max_nodes=max_nodes)
    return Call("tree", "WatchTree", request, _read_view)


def get_plan(all_namespaces: bool) -> Call[PlannedStep]:
    """The last step's plan."""
    request = pb.GetPlanRequest(all_namespaces=all_namespaces)
    return Call("tree", "GetPlan", request, _read_plan)


def _read_view(response: pb.GetTreeResponse | pb.WatchTreeResponse) -> TreeView:
    tree = response.tree
    return TreeView(
        nodes=tuple(_read_node(node) for node in tree.nodes),
        num_left_out_nodes=tree.left_out_nodes,
        num_left_out_tokens=tree.left_out_tokens,
        num_tokens=tree.tokens,
        is_partly_counted=tree.is_partly_counted,
    )


def _read_node(node: pb.TreeSegment) -> TreeNode:
    return TreeNode(
        node_id=node.id,
        parent_id=node.parent_id if node.HasField("parent_id") else None,
        namespace=node.namespace,
        start_position=node.start_position,
        num_tokens=node.tokens,
        num_computed_tokens=node.computed_tokens,
        num_pages=node.pages,
        num_children=node.children,
        use=_read_use(node.use) if node.HasField("use") else None,
        token_ids=tuple(node.token_ids),
    )


def _read_use(use: pb.SegmentUse) -> NodeUse:
    return NodeUse(
        num_pins=use.pins,
        num_hits=use.hits,
        num_rows=use.rows if use.HasField("rows") else None,
        retained_weight=use.retained_weight,
        age_seconds=use.age_seconds,
    )


def _read_plan(response: pb.GetPlanResponse) -> PlannedStep:
    has_totals = response.HasField("totals")
    return PlannedStep(
        nodes=tuple(_read_planned(node) for node in response.nodes),
        num_left_out_nodes=response.left_out_nodes,
        totals=_read_totals(response.totals) if has_totals else None,
    )


def _read_planned(node: pb.PlannedNode) -> PlannedNode:
    return PlannedNode(
        node_id=node.node_id,
        namespace=node.namespace,
        start_position=node.start_position,
        end_position=node.end_position,
        num_rows=node.rows,
        is_shared=node.is_shared,
        num_pieces=node.pieces,
        shared_cost=node.shared_cost,
        folded_cost=node.folded_cost,
        reason=node.reason,
    )


def _read_totals(totals: pb.PlanTotals) -> PlanTotals:
    return PlanTotals(
        num_shared_items=totals.shared_items,
        num_private_items=totals.private_items,
        num_folded_segments=totals.folded_segments,
        tokens_read=totals.tokens_read,
        tokens_read_flat=totals.tokens_read_flat,
        saved_cost=totals.saved_cost,
        merging_cost=totals.merging_cost,
    )
