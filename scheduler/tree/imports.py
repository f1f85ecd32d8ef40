"""Modules in the tree: where each one is, and what a set of them is bound to while it is read."""

from treeserve.scheduler.modules import Module
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Root, Segment


def module_prefix(module: Module, namespace: str) -> Prefix:
    """A module's own tokens, which hang alone beneath a root of their own."""
    return Prefix(module.token_ids, namespace, layout=module)


def find_module(tree: RadixTree, module: Module, namespace: str) -> Segment | None:
    """Computed or pending; None where the tree does not hold it."""
    segment = tree.locate(module_prefix(module, namespace)).segment
    return None if segment.is_root else segment


def import_modules(tree: RadixTree, prefix: Prefix, modules: tuple[Module, ...]) -> Root:
    """Binds the root of the prefix to the modules of its set, all of which are computed.

    As long as anything beneath the root is pinned, so are they, and they stay where they are. Keep
    the root until something beneath it is pinned: without children it is the caller's alone.
    """
    root = tree.locate(prefix).segment.root
    found = [find_module(tree, module, prefix.namespace) for module in modules]
    segments = [segment for segment in found if segment is not None and not segment.is_pending]
    assert len(segments) == len(modules), "a module is imported before it is computed"
    assert isinstance(root, Root)
    is_read = any(child.pins for child in root.children.values())
    assert not is_read or root.modules == tuple(segments), "modules moved while they were read"
    root.import_modules(segments)
    return root
