"""The tree's shape: roots, links between segments, and the books that follow from them."""

from collections.abc import Hashable
from typing import TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.check import check_modules, check_tree
from treeserve.scheduler.tree.eviction import EvictionOrder
from treeserve.scheduler.tree.holders import PageDrop, PageHolders
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.listener import TreeListener
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE, Prefix
from treeserve.scheduler.tree.retention import Retention
from treeserve.scheduler.tree.segment import Root, Segment

RootName: TypeAlias = tuple[str, Hashable]
"""(namespace, key of the layout)"""

_EMPTY = np.zeros(0, dtype=np.int32)


class TreeShape:
    """The only one that attaches, splits, truncates and detaches segments.

    There is one root object for each namespace and layout as long as anybody holds it; those with
    children are held here.
    """

    def __init__(
        self, pool: PagePool, kept: KeptLogits, order: EvictionOrder, retention: Retention
    ) -> None:
        self._pool = pool
        self._kept = kept
        self._order = order
        self._retention = retention
        self._roots: dict[RootName, Root] = {}
        self._known_roots: WeakValueDictionary[RootName, Root] = WeakValueDictionary()
        self._next_serial = 1
        self.holders = PageHolders(pool.num_pages)
        self.listeners: list[TreeListener] = []

    def root(self, prefix: Prefix) -> Root:
        """The one that the prefix hangs beneath, held by the caller alone without children."""
        namespace, _ = prefix.zone(0)
        name = (namespace, prefix.root_key)
        root = self._known_roots.get(name)
        if root is None:
            root = self._known_roots[name] = Root(namespace, _EMPTY, prefix.layout)
        return root

    def roots(self) -> list[Root]:
        """Those with children."""
        return list(self._roots.values())

    def start_drop(self) -> PageDrop:
        """For a run of `detach` and `truncate`: give back its pages at the end."""
        return PageDrop(self.holders, self._pool)

    def segments(self) -> list[Segment]:
        found: list[Segment] = []
        stack: list[Segment] = list(self._roots.values())
        while stack:
            segment = stack.pop()
            found.append(segment)
            stack.extend(segment.children.values())
        return [segment for segment in found if not segment.is_root]

    def attach(
        self,
        parent: Segment,
        tokens: Int32Array,
        slots: Int32Array,
        pages: Int32Array,
        num_computed: int,
        namespace: str,
    ) -> Segment:
        """A new unpinned leaf, to which the caller's references on the pages pass."""
        if parent.namespace not in (namespace, PUBLIC_NAMESPACE):
            raise ValueError(f"{parent} belongs to another namespace than {namespace!r}")
        segment = Segment(
            parent=parent,
            tokens=tokens,
            slots=slots,
            pages=pages,
            start_position=parent.end_position,
            num_computed=num_computed,
            serial=self._take_serial(),
            namespace=namespace,
        )
        if segment.key in parent.children:
            raise ValueError(f"{parent} has a child that starts with {segment.key}")
        if isinstance(parent, Root):
            self._roots[_name(parent)] = parent
        self._order.discard(parent)
        parent.children[segment.key] = segment
        self.holders.attach(pages)
        self._order.pass_tokens(len(segment))
        self._order.touch([segment])
        self._order.add(segment)
        for listener in self.listeners:
            listener.attached(segment)
        return segment

    def split(self, segment: Segment, num_tokens: int) -> Segment:
        if not 0 < num_tokens < len(segment):
            raise ValueError(f"cannot split {segment} after {num_tokens} tokens")
        assert segment.parent is not None
        offset = self.offset(segment) + num_tokens
        first_page, is_straddled = divmod(offset, self._pool.page_size)
        upper = Segment(
            parent=segment.parent,
            tokens=segment.tokens[:num_tokens],
            slots=segment.slots[:num_tokens],
            pages=segment.pages[: self._pool.pages_for(offset)],
            start_position=segment.start_position,
            num_computed=min(segment.num_computed, num_tokens),
            serial=self._take_serial(),
            namespace=segment.namespace,
        )
        upper.take_use_of(segment)
        if is_straddled:
            straddled = segment.pages[first_page : first_page + 1]
            self._pool.retain(straddled)
            self.holders.straddle(straddled, is_pinned=segment.pins > 0)
        segment.parent.children[upper.key] = upper
        segment.parent = upper
        segment.pages = segment.pages[first_page:]
        segment.num_computed = max(0, segment.num_computed - num_tokens)
        segment.start_position += num_tokens
        segment.tokens, segment.slots = segment.tokens[num_tokens:], segment.slots[num_tokens:]
        upper.children[segment.key] = segment
        self._retention.split(upper, segment)
        for listener in self.listeners:
            listener.split(upper, segment)
        return upper

    def detach(self, segment: Segment, drop: PageDrop) -> int:
        """An unpinned leaf leaves the tree; how many pages come free with the drop."""
        parent = segment.parent
        assert parent is not None
        assert not segment.children
        self._order.discard(segment)
        self._kept.forget(segment)
        num_freed = drop.add(segment.pages)
        del parent.children[segment.key]
        segment.parent = None
        if not parent.children:
            if isinstance(parent, Root):
                del self._roots[_name(parent)]
                parent.forget_module()
            elif parent.pins == 0:
                self._order.add(parent)
        self._retention.detached(segment, parent)
        for listener in self.listeners:
            listener.detached(segment, parent)
        return num_freed

    def truncate(self, segment: Segment, num_tokens: int, drop: PageDrop) -> int:
        """An unpinned leaf keeps its first tokens only; likewise."""
        num_dropped = len(segment) - num_tokens
        num_pages = self._pool.pages_for(self.offset(segment) + num_tokens)
        self._kept.forget(segment)
        num_freed = drop.add(segment.pages[num_pages:])
        segment.keep_first(num_tokens, num_pages)
        self._retention.truncated(segment, num_dropped)
        for listener in self.listeners:
            listener.truncated(segment)
        return num_freed

    def offset(self, segment: Segment) -> int:
        """Of its first slot, in its first page."""
        return int(segment.slots[0]) % self._pool.page_size

    def check(self, segments: list[Segment]) -> None:
        """Raises AssertionError unless links, pages and roots agree."""
        check_tree(segments, self._pool, self.holders)
        for name, root in self._roots.items():
            assert root.children, "an empty root is kept"
            assert _name(root) == name, "a root has another name"
            assert self._known_roots.get(name) is root, "a name has two roots"
        check_modules(self._known_roots.values(), segments)

    def _take_serial(self) -> int:
        self._next_serial += 1
        return self._next_serial


def _name(root: Root) -> RootName:
    return (root.namespace, root.root_key)
