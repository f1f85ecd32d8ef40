"""The tree's check: whether segments, pages and pins are what each says of the other."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.tree.holders import PageHolders
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE
from treeserve.scheduler.tree.segment import Root, Segment


def check_tree(segments: Sequence[Segment], pool: PagePool, holders: PageHolders) -> None:
    """Raises AssertionError on any disagreement. Slow: in proportion to all that is cached."""
    held = np.zeros(pool.num_pages, dtype=np.int32)
    pinned = np.zeros(pool.num_pages, dtype=np.int32)
    for segment in segments:
        _check_place(segment)
        _check_pages(segment, pool.page_size)
        held[segment.pages] += 1
        pinned[segment.pages] += 1 if segment.pins else 0
    holders.check(held, pinned)
    evictable = (held > 0) & (pinned == 0)
    outside = pool.counts()[evictable] != held[evictable]
    assert not outside.any(), "a page that counts as evictable is held by a tail"


def check_modules(roots: Iterable[Root], segments: Sequence[Segment]) -> None:
    """Raises AssertionError unless modules are whole, and pinned by all that is pinned above."""
    held = set(segments)
    pins: Counter[Segment] = Counter()
    for root in roots:
        if not root.modules:
            continue
        layout = root.layout
        assert isinstance(layout, ModuleSet), "modules are imported where nobody asked for them"
        imported = [module.layout for module in root.modules]
        names = [module.identity for module in imported if isinstance(module, Module)]
        assert names == [module.identity for module in layout.modules], "other modules are imported"
        for module in root.modules:
            assert module in held, f"{module} is imported and not in the tree"
            assert module.namespace == root.namespace, f"{module} is another namespace's"
            pins[module] += sum(child.pins for child in root.children.values())
    for module in (segment for segment in segments if segment.is_module):
        assert isinstance(module.layout, Module)
        assert len(module) == len(module.layout), f"module {module} is not whole"
        assert not module.children, f"tokens hang beneath module {module}"
        assert module.pins >= pins[module], f"module {module} is pinned less than what reads it"


def _check_place(segment: Segment) -> None:
    parent = segment.parent
    assert parent is not None, f"{segment} hangs nowhere"
    assert parent.children.get(segment.key) is segment, f"{segment} has a false key"
    assert parent.namespace in (segment.namespace, PUBLIC_NAMESPACE), f"{segment} is astray"
    assert parent.namespace == segment.namespace or not parent.is_root, f"{segment} is astray"
    assert segment.start_position == parent.end_position, f"{segment} leaves a gap"
    assert 0 <= segment.num_computed <= len(segment), f"{segment} computed too much"
    assert segment.num_computed == 0 or not parent.is_pending, f"{segment} outran its parent"
    assert segment.pins > 0 or not segment.is_pending, f"{segment} is pending for nobody"
    assert parent.is_root or parent.pins >= segment.pins, f"{segment} is pinned more than above"


def _check_pages(segment: Segment, page_size: int) -> None:
    assert len(segment.slots) == len(segment.tokens), f"{segment} has tokens without slots"
    assert len(np.unique(segment.slots)) == len(segment), f"{segment} uses a slot twice"
    offsets = int(segment.slots[0]) % page_size + np.arange(len(segment))
    assert len(segment.pages) == offsets[-1] // page_size + 1, f"{segment} holds idle pages"
    slots = segment.pages[offsets // page_size] * page_size + offsets % page_size
    assert np.array_equal(slots, segment.slots), f"{segment} holds other pages than its slots"
