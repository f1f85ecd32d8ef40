"""Draws a tree as an SVG icicle: width is requests beneath, height is tokens."""

from collections.abc import Iterator, Mapping
from html import escape

from treeserve.commands.tree_outline import TreeWeights, describe, plain
from treeserve.inspection import TreeNode, TreeView

WIDTH, HEIGHT = 1200, 560
_TOP = 34
_LEAST_HEIGHT = 3.0
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1b1f24}.title{font-size:14px;font-weight:600}"
    "rect{stroke:#fff;stroke-width:.75}.use{fill:#3b78d8}.cached{fill:#c3cad3}"
    ".retained{fill:#d99a1c}.pending{fill:#8a5bd0}.ground{fill:#fff;stroke:none}"
    ".use+text{fill:#fff}"
)


def draw_svg(view: TreeView, title: str, texts: Mapping[int, str] | None = None) -> str:
    """The whole view, with what each node is as its title; it needs nothing else to be shown.

    Args:
        view: What is drawn.
        title: Stands above it.
        texts: What nodes say, by node id.
    """
    weights = TreeWeights.of(view)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'width="{WIDTH}" height="{HEIGHT}" aria-label="{_text(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="4" y="20">{_text(title)}</text>',
    ]
    ends = [node.start_position + node.num_tokens for node in view.nodes]
    down = (HEIGHT - _TOP) / max(ends, default=1)
    total = sum(weights.widths[node.node_id] for node in weights.children.get(None, [])) or 1.0
    placed = _place(weights, WIDTH / total)
    parts += [_block(node, x, width, down, texts or {}) for node, x, width in placed]
    return "\n".join([*parts, "</svg>", ""])


def _place(weights: TreeWeights, across: float) -> Iterator[tuple[TreeNode, float, float]]:
    """(node, x, width), parents before children."""
    rows: list[tuple[int | None, float]] = [(None, 0.0)]
    while rows:
        parent_id, x = rows.pop()
        for node in weights.children.get(parent_id, []):
            width = weights.widths[node.node_id] * across
            yield node, x, width
            rows.append((node.node_id, x))
            x += width


def _block(node: TreeNode, x: float, width: float, down: float, texts: Mapping[int, str]) -> str:
    y, height = _TOP + node.start_position * down, max(_LEAST_HEIGHT, node.num_tokens * down)
    use = node.use
    kind = "cached" if use is None or not use.num_pins else "use"
    if kind == "cached" and use is not None and use.retained_weight:
        kind = "retained"
    said = describe(node)
    if node.node_id in texts:
        said += f": {plain(texts[node.node_id])}"
    rect = (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )
    rows = use.num_rows if use else None
    label = f"{node.num_tokens:,} × {rows:,}" if rows else f"{node.num_tokens:,}"
    fits = height >= 15 and width >= 7 * len(label) + 6
    text = f'<text x="{x + 4:.1f}" y="{y + 14:.1f}">{label}</text>' if fits else ""
    left = 1 - node.num_computed_tokens / node.num_tokens
    pending = ""
    if left > 0:
        pending = (
            f'<rect class="pending" x="{x:.1f}" y="{y + (1 - left) * height:.1f}" '
            f'width="{width:.1f}" height="{left * height:.1f}"/>'
        )
    return f"<g><title>{_text(said)}</title>{rect}{text}{pending}</g>"


def _text(text: str) -> str:
    return escape(plain(text))
