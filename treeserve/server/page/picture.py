"""Cuts the live tree to what a screen can show, and writes it as JSON."""

import heapq
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from treeserve.forest import NO_PARENT, Forest, ForestNode

MAX_SHOWN = 1200
"""Nodes of one picture."""
LEAST_PART = 1 / 1600
"""Of the picture's width: what is narrower is folded into a block beside its siblings."""
CACHED_WEIGHT = 0.2
"""The width of a leaf that nobody uses, where a live request's is 1; at most."""
CACHED_PART = 0.5
"""Of the width of all that is in use: as wide are the leaves that nobody uses together, at most."""
MAX_PLANNED = 50
"""Segments of the plan that are told with their reasons."""

FIELDS = (
    "id", "parent", "namespace", "start", "tokens", "computed", "pins", "hits", "retained",
    "module", "age", "rows", "shared", "weight", "children", "rest_nodes", "rest_tokens",
    "rest_weight",
)  # fmt: skip
"""Of a node in the picture, in this order; `parent` is its place in the list, or -1; `shared` is 1
where the last plan read it once for all rows, 0 where it did not, -1 where fewer than two read it;
`rest_…` is what beneath it is not shown."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a watcher wants to see."""

    focus: int | None = None
    """The id of the node that the picture is of; None: all."""
    live_only: bool = False
    """Leave out what only the cache holds."""


class Weights:
    """How wide every node of a forest is, what it holds beneath it, and whose children are whose.

    A live request or sample is 1 wide, what nobody uses less; a node is as wide as all beneath it.
    """

    def __init__(self, forest: Forest, *, live_only: bool) -> None:
        nodes = forest.nodes
        idle = 0.0 if live_only else _cached_weight(nodes)
        count = len(nodes)
        beneath = [0.0] * count
        self.widths = widths = [0.0] * count
        self.num_nodes = [1] * count
        """A node and all beneath it."""
        self.num_tokens = [node.num_tokens for node in nodes]
        # No list for each leaf: so many objects would set off the garbage collector.
        self.children: defaultdict[int, list[int]] = defaultdict(list)
        self.tops: list[int] = []
        for index in range(count - 1, -1, -1):
            node = nodes[index]
            widths[index] = width = max(beneath[index], node.num_pins or idle)
            if not width:
                continue
            parent = node.parent
            if parent == NO_PARENT:
                self.tops.append(index)
                continue
            beneath[parent] += width
            self.num_nodes[parent] += self.num_nodes[index]
            self.num_tokens[parent] += self.num_tokens[index]
            self.children[parent].append(index)
        self.tops.reverse()
        for children in self.children.values():
            children.reverse()


def _cached_weight(nodes: Sequence[ForestNode]) -> float:
    """What is in use stays visible however much is cached beside it."""
    is_above = [False] * len(nodes)
    num_live = 0
    for node in nodes:
        if node.parent == NO_PARENT:
            num_live += node.num_pins
        else:
            is_above[node.parent] = True
    idle = sum(not (above or node.num_pins) for node, above in zip(nodes, is_above, strict=True))
    if not num_live or not idle:
        return CACHED_WEIGHT
    return min(CACHED_WEIGHT, CACHED_PART * num_live / idle)


def draw(forest: Forest, wish: Wish, weights: Weights) -> bytes:
    """The picture as JSON, in at most MAX_SHOWN nodes; the weights are the forest's."""
    focus = _find(forest, wish.focus)
    path = _path_to(forest, focus)
    tops = weights.tops if focus is None else [focus]
    shown = _choose(weights, tops)
    places = {index: place for place, index in enumerate(shown)}
    reads = {s.serial: int(s.decision == "own") for s in forest.plan.segments}
    namespaces: dict[str, int] = {}
    rows = [_row(forest, weights, index, places, reads, namespaces) for index in shown]
    hidden_tops = [index for index in tops if index not in places]
    picture = {
        "fields": FIELDS,
        "nodes": rows,
        "namespaces": list(namespaces),
        "focus": None if focus is None else wish.focus,
        "path": [_crumb(forest.nodes[index]) for index in path],
        "rest": _sums(weights, hidden_tops),
        "total": _sums(weights, weights.tops),
        "live_only": wish.live_only,
        "is_cut": forest.is_cut,
        "plan": _plan(forest),
    }
    return json.dumps(picture, separators=(",", ":")).encode()


def _find(forest: Forest, node_id: int | None) -> int | None:
    if node_id is None:
        return None
    return next((i for i, node in enumerate(forest.nodes) if node.node_id == node_id), None)


def _path_to(forest: Forest, index: int | None) -> list[int]:
    path: list[int] = []
    while index is not None and index != NO_PARENT:
        path.append(index)
        index = forest.nodes[index].parent
    return path[::-1]


def _choose(weights: Weights, tops: list[int]) -> list[int]:
    """The widest nodes whose parents are shown, in the forest's order: parents come first."""
    widths = weights.widths
    least = sum(widths[index] for index in tops) * LEAST_PART
    heap = [(-widths[index], index) for index in tops if widths[index] >= least]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < MAX_SHOWN:
        _, index = heapq.heappop(heap)
        chosen.append(index)
        for child in weights.children[index]:
            if widths[child] >= least:
                heapq.heappush(heap, (-widths[child], child))
    return sorted(chosen)


def _row(
    forest: Forest,
    weights: Weights,
    index: int,
    places: dict[int, int],
    reads: dict[int, int],
    namespaces: dict[str, int],
) -> list[float]:
    node = forest.nodes[index]
    children = weights.children[index]
    rest = _sums(weights, [child for child in children if child not in places])
    return [
        node.node_id,
        places.get(node.parent, NO_PARENT),
        namespaces.setdefault(node.namespace, len(namespaces)),
        node.start_position,
        node.num_tokens,
        node.num_computed_tokens,
        node.num_pins,
        node.num_hits,
        round(node.retained_weight, 3),
        int(node.is_module),
        0 if node.num_pins else round(max(0.0, forest.now - node.last_used_at), 1),
        forest.num_rows.get(node.node_id, 0),
        reads.get(node.node_id, -1),
        round(weights.widths[index], 4),
        len(children),
        *rest,
    ]


def _sums(weights: Weights, indices: list[int]) -> list[float]:
    """Nodes, tokens and width of these and all beneath them."""
    return [
        sum(weights.num_nodes[index] for index in indices),
        sum(weights.num_tokens[index] for index in indices),
        round(sum(weights.widths[index] for index in indices), 4),
    ]


def _crumb(node: ForestNode) -> list[int]:
    return [node.node_id, node.start_position, node.num_tokens]


def _plan(forest: Forest) -> dict[str, object]:
    plan = forest.plan
    widest = sorted(plan.segments, key=lambda segment: -segment.num_rows)[:MAX_PLANNED]
    counts = plan.counts
    return {
        "segments": [
            {
                "id": segment.serial,
                "start": segment.start_position,
                "end": segment.end_position,
                "rows": segment.num_rows,
                "shared": segment.decision == "own",
                "pieces": segment.num_pieces,
                "reason": segment.reason,
            }
            for segment in widest
        ],
        "left_out": len(plan.segments) - len(widest) + plan.num_left_out_segments,
        "totals": None
        if counts is None
        else {
            "shared_items": counts.num_shared_items,
            "private_items": counts.num_private_items,
            "folded_segments": counts.num_folded_segments,
            "tokens_read": counts.tokens_read,
            "tokens_read_flat": counts.tokens_read_flat,
        },
    }
