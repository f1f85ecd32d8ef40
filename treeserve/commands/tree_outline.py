"""The live tree in lines of text: the nodes that most requests are beneath, the rest in sums."""

import heapq
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from treeserve.inspection import TreeNode, TreeView

CACHED_WEIGHT = 0.2
"""Of a node that nobody uses, where a live request or sample is 1."""
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of characters that move a cursor, turn text around, or show nothing."""


def plain(text: str) -> str:
    """In one line, harmless in a terminal: what cannot be seen is written as an escape."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _HIDDEN else c
        for c in text
    )


@dataclass(frozen=True, slots=True)
class OutlineNode:
    """A node with what lies beneath it."""

    node: TreeNode | None
    """None: above all tops."""
    children: tuple["OutlineNode", ...]
    """Widest first."""
    num_hidden: int = 0
    """Nodes beneath it that are left out."""
    num_hidden_tokens: int = 0


@dataclass(slots=True)
class TreeWeights:
    """How wide the nodes of a view are, and whose children are whose."""

    widths: dict[int, float] = field(default_factory=dict)
    """By node id: requests and samples beneath."""
    children: Mapping[int | None, list[TreeNode]] = field(default_factory=dict)
    """By node id, widest first; of None, the tops."""

    @classmethod
    def of(cls, view: TreeView) -> "TreeWeights":
        """Every node is as wide as all beneath it."""
        beneath: defaultdict[int | None, float] = defaultdict(float)
        children: defaultdict[int | None, list[TreeNode]] = defaultdict(list)
        known = {node.node_id for node in view.nodes}
        widths = {}
        for node in reversed(view.nodes):
            pins = node.use.num_pins if node.use else 0
            width = widths[node.node_id] = max(beneath[node.node_id], pins or CACHED_WEIGHT)
            parent = node.parent_id if node.parent_id in known else None
            beneath[parent] += width
            children[parent].append(node)
        for siblings in children.values():
            siblings.sort(key=lambda node: (-widths[node.node_id], node.node_id))
        return cls(widths, children)


def make_outline(view: TreeView, max_nodes: int) -> OutlineNode:
    """The widest nodes of a view whose parents are among them."""
    weights = TreeWeights.of(view)
    heap = [(-weights.widths[n.node_id], n.node_id) for n in weights.children.get(None, [])]
    heapq.heapify(heap)
    chosen: set[int] = set()
    while heap and len(chosen) < max_nodes:
        _, node_id = heapq.heappop(heap)
        chosen.add(node_id)
        for child in weights.children.get(node_id, []):
            heapq.heappush(heap, (-weights.widths[child.node_id], child.node_id))
    return _outline(None, weights, chosen)


def outline_lines(outline: OutlineNode, texts: Mapping[int, str] | None = None) -> list[str]:
    """One line a node, with what is beneath it indented; `texts` are shown by node id."""
    return list(_lines(outline, "", texts or {}))


def describe(node: TreeNode) -> str:
    """What a node is, in a few words."""
    parts = ["1 token" if node.num_tokens == 1 else f"{node.num_tokens:,} tokens"]
    if node.num_computed_tokens < node.num_tokens:
        parts.append(f"{node.num_tokens - node.num_computed_tokens:,} pending")
    use = node.use
    if use is not None:
        if use.num_rows:
            parts.append(f"{use.num_rows:,} rows")
        parts.append(f"used by {use.num_pins:,}" if use.num_pins else "cached")
        if use.retained_weight:
            parts.append("retained")
    if node.parent_id is None and node.namespace:
        parts.append("public" if node.namespace == "*" else f"of {plain(node.namespace)}")
    return ", ".join(parts)


def _outline(node: TreeNode | None, weights: TreeWeights, chosen: set[int]) -> OutlineNode:
    children = weights.children.get(None if node is None else node.node_id, [])
    hidden = [child for child in children if child.node_id not in chosen]
    num_hidden = num_tokens = 0
    while hidden:
        each = hidden.pop()
        num_hidden += 1
        num_tokens += each.num_tokens
        hidden += weights.children.get(each.node_id, [])
    shown = [child for child in children if child.node_id in chosen]
    outlines = tuple(_outline(child, weights, chosen) for child in shown)
    return OutlineNode(node, outlines, num_hidden, num_tokens)


def _lines(outline: OutlineNode, indent: str, texts: Mapping[int, str]) -> Iterator[str]:
    last = len(outline.children) - (0 if outline.num_hidden else 1)
    is_top = outline.node is None
    for place, child in enumerate(outline.children):
        assert child.node is not None
        text = texts.get(child.node.node_id)
        said = describe(child.node) + (f": “{plain(text)}”" if text else "")
        yield said if is_top else f"{indent}{'└' if place == last else '├'}─ {said}"
        deeper = "" if is_top else f"{indent}{' ' if place == last else '│'}  "
        yield from _lines(child, deeper, texts)
    if outline.num_hidden:
        said = f"{outline.num_hidden:,} more nodes, {outline.num_hidden_tokens:,} tokens"
        yield said if is_top else f"{indent}└─ {said}"
