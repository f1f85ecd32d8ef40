"""What several engines and ingresses say of themselves, made into one answer."""

from collections.abc import Iterable, Sequence

from treeserve.inspection import MAX_NODES, PlanView, TreeNode, TreeView, cut_view
from treeserve.pb import tree_pb2
from treeserve.scheduler.step import PlanCounts

_SUMMED = ("steps", "step_seconds", "drawn_tokens", "prompt_rows", "kv_tokens_read",
           "kv_tokens_read_flat", "cached_tokens", "shared_in_flight_tokens", "computed_tokens",
           "evicted_tokens", "running_samples", "waiting_requests", "used_pages", "cached_pages",
           "total_pages")  # fmt: skip
"""Of Totals: what is summed."""


def join_views(views: Sequence[TreeView]) -> TreeView:
    """All nodes in one view; their ids are distinct already."""
    nodes = sorted(_with_depths(node for view in views for node in view.nodes), key=_by_depth)
    joined = TreeView(
        nodes=tuple(node for _, node in nodes),
        num_left_out_nodes=sum(view.num_left_out_nodes for view in views),
        num_left_out_tokens=sum(view.num_left_out_tokens for view in views),
        num_tokens=sum(view.num_tokens for view in views),
        is_partly_counted=any(view.is_partly_counted for view in views),
    )
    return cut_view(joined, MAX_NODES)


def join_plans(views: Sequence[PlanView]) -> PlanView:
    """All segments in one view, and of the steps as a whole the sums, where they are told."""
    segments = [segment for view in views for segment in view.segments]
    counts = [view.counts for view in views if view.counts is not None]
    total = None
    if counts:
        total = PlanCounts(
            num_shared_items=sum(entry.num_shared_items for entry in counts),
            num_private_items=sum(entry.num_private_items for entry in counts),
            num_folded_segments=sum(entry.num_folded_segments for entry in counts),
            tokens_read=sum(entry.tokens_read for entry in counts),
            tokens_read_flat=sum(entry.tokens_read_flat for entry in counts),
        )
    num_hidden = max(0, len(segments) - MAX_NODES)
    return PlanView(
        segments=tuple(segments[:MAX_NODES]),
        num_left_out_segments=num_hidden + sum(view.num_left_out_segments for view in views),
        counts=total,
        saved_cost=_sum(view.saved_cost for view in views),
        merging_cost=_sum(view.merging_cost for view in views),
    )


def join_activity(
    parts: Sequence[tree_pb2.GetActivityResponse], max_calls: int
) -> tree_pb2.GetActivityResponse:
    """The oldest calls of all parts, and the sums of their totals."""
    calls = [running for part in parts for running in part.calls]
    calls.sort(key=lambda running: -running.age_seconds)
    totals = tree_pb2.Totals(at_seconds=max(part.totals.at_seconds for part in parts))
    for name in _SUMMED:
        setattr(totals, name, sum(getattr(part.totals, name) for part in parts))
    return tree_pb2.GetActivityResponse(
        calls=calls[:max_calls],
        left_out_calls=sum(part.left_out_calls for part in parts) + len(calls[max_calls:]),
        totals=totals,
    )


def _with_depths(nodes: Iterable[TreeNode]) -> list[tuple[int, TreeNode]]:
    """Parents come before children in every view, and so in all of them one after the other."""
    depths: dict[int, int] = {}
    found = []
    for node in nodes:
        depth = 0 if node.parent_id is None else depths[node.parent_id] + 1
        depths[node.node_id] = depth
        found.append((depth, node))
    return found


def _by_depth(entry: tuple[int, TreeNode]) -> int:
    return entry[0]


def _sum(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) if told else None
