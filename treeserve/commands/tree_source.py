"""Where a tree that is to be drawn comes from: a saved look at a server, or a file of prompts."""

import json
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from treeserve.errors import ConfigError
from treeserve.inspection import MAX_NODE_TOKENS, NodeUse, TreeNode, TreeView
from treeserve.prompt_tree import read_tree_file
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.snapshot import SegmentSnapshot
from treeserve.types import PromptTree

FORMAT = "treeserve-tree-1"


def write_view(view: TreeView) -> str:
    """As JSON that `read_file` reads again."""
    return json.dumps({"format": FORMAT, **asdict(view)}, ensure_ascii=True) + "\n"


def read_file(file: Path, model: str) -> TreeView:
    """A saved look, or a tree of prompts as `generate --tree` takes it.

    Args:
        file: One of the two, in JSON.
        model: Whose tokenizer counts the tokens of prompts.

    Raises:
        ConfigError: The file cannot be read, or is no saved look.
        TreeFileError: It is no tree of prompts.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"file: cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "format" in content:
        return _read_view(file, content)
    return _view_prompts(read_tree_file(file), model)


def _read_view(file: Path, content: dict[str, Any]) -> TreeView:
    if content["format"] != FORMAT:
        raise ConfigError(f"file: {file}: format must be {FORMAT!r}, got {content['format']!r}")
    try:
        nodes = tuple(_read_node(node) for node in content["nodes"])
        names = [field.name for field in fields(TreeView) if field.name != "nodes"]
        view = TreeView(nodes=nodes, **{name: content[name] for name in names})
        known: set[int] = set()
        for node in nodes:
            if node.parent_id is not None and node.parent_id not in known:
                raise ValueError
            known.add(node.node_id)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(
            f"file: {file} is damaged: write it again with treeserve tree --server … --format json"
        ) from None
    return view


def _read_node(content: dict[str, Any]) -> TreeNode:
    given = dict(content)
    use = given.pop("use")
    node = TreeNode(
        **given | {"token_ids": tuple(given["token_ids"])},
        use=None if use is None else NodeUse(**use),
    )
    numbers = (node.node_id, node.start_position, node.num_tokens, node.num_computed_tokens)
    if any(type(number) is not int or number < 0 for number in numbers) or not node.num_tokens:
        raise ValueError
    if not isinstance(node.namespace, str):
        raise TypeError
    return node


def _view_prompts(tree: PromptTree, model: str) -> TreeView:
    """What the server's tree would hold of these prompts alone."""
    from treeserve.model_place import resolve_model
    from treeserve.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(resolve_model(model))
    prompts = [(tokenizer.encode(text), n) for text, n in _prompts(tree, "")]
    pool = PagePool(sum(len(ids) for ids, _ in prompts) or 1, 1)
    shared = RadixTree(pool, KeptLogits(1), clock=lambda: 0.0)
    for token_ids, n in prompts:
        if token_ids:
            _insert(shared, Prefix(np.array(token_ids, dtype=np.int32)), n)
    segments = shared.snapshot(include_tokens=True).segments
    children = Counter(segment.parent_id for segment in segments)
    nodes = tuple(_view_segment(s, children[s.segment_id]) for s in segments)
    return TreeView(nodes, 0, 0, sum(node.num_tokens for node in nodes))


def _insert(tree: RadixTree, prefix: Prefix, n: int) -> None:
    leaf = tree.match(prefix)
    if leaf.end_position < len(prefix):
        inserted = tree.insert_pending(leaf, prefix)
        assert inserted is not None, "the pool holds every prompt"
        leaf = inserted
        tree.mark_computed(leaf, len(leaf))
    for _ in range(n):
        tree.pin(leaf)


def _view_segment(segment: SegmentSnapshot, num_children: int) -> TreeNode:
    return TreeNode(
        node_id=segment.segment_id,
        parent_id=segment.parent_id,
        namespace=segment.namespace,
        start_position=segment.start_position,
        num_tokens=segment.num_tokens,
        num_computed_tokens=segment.num_computed_tokens,
        num_pages=segment.num_pages,
        num_children=num_children,
        use=NodeUse(segment.pins, 0, None, 0.0, 0.0),
        token_ids=(segment.token_ids or ())[:MAX_NODE_TOKENS],
    )


def _prompts(node: PromptTree, above: str) -> list[tuple[str, int]]:
    """(whole prompt, samples) of each node that has samples."""
    text = above + node.text
    n = node.n if node.n is not None else int(not node.branches)
    own = [(text, n)] if n else []
    return own + [each for branch in node.branches for each in _prompts(branch, text)]
