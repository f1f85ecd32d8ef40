"""The tree's check: whether segments, pages and pins are what each says of the other."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.holders import PageHolders
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE
from treeserve.scheduler.tree.segment import Root, Segment


def check_tree(segments: Sequence[Segment], pool: PagePool, holders: PageHolders) -> None:
    """Raises AssertionError on any disagreement. Slow: in proportion to all that is cached."""
    for segment in segments:
        _check_place(segment)
    held = pinned = np.zeros(pool.num_pages, dtype=np.int32)
    if segments:
        pages = _check_pages(segments, pool.page_size)
        held = _count(pages, pool)
        is_pinned = np.repeat([s.pins > 0 for s in segments], [len(s.pages) for s in segments])
        pinned = _count(pages[is_pinned], pool)
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


def _check_pages(segments: Sequence[Segment], page_size: int) -> Int32Array:
    """All at once, since segments are many and short; their pages, one after the other."""
    lengths = np.array([len(segment) for segment in segments])
    num_slots = np.array([len(segment.slots) for segment in segments])
    num_pages = np.array([len(segment.pages) for segment in segments])
    slots = np.concatenate([segment.slots for segment in segments])
    pages = np.concatenate([segment.pages for segment in segments])

    def require(good: np.ndarray, what: str, owners: np.ndarray | None = None) -> None:
        if not good.all():
            wrong = int(np.argmin(good))
            raise AssertionError(f"{segments[wrong if owners is None else owners[wrong]]} {what}")

    require(num_slots == lengths, "has tokens without slots")
    first_slots = np.cumsum(lengths) - lengths
    first_offsets = slots[first_slots] % page_size
    require((first_offsets + lengths - 1) // page_size + 1 == num_pages, "holds idle pages")
    owners = np.repeat(np.arange(len(segments)), lengths)
    offsets = np.arange(len(slots)) - (first_slots - first_offsets)[owners]
    first_pages = np.cumsum(num_pages) - num_pages
    page_of = pages[first_pages[owners] + offsets // page_size]
    same = page_of * page_size + offsets % page_size == slots
    require(same, "holds other pages than its slots", owners)
    # Its pages follow from its slots, so it uses a slot twice where it holds a page twice.
    page_owners = np.repeat(np.arange(len(segments)), num_pages)
    order = np.lexsort((pages, page_owners))
    again = (np.diff(pages[order]) == 0) & (np.diff(page_owners[order]) == 0)
    require(~again, "uses a slot twice", page_owners[order][1:])
    return pages


def _count(pages: Int32Array, pool: PagePool) -> Int32Array:
    return np.bincount(pages, minlength=pool.num_pages).astype(np.int32)
