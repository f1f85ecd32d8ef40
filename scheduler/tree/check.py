"""The tree's check: whether segments, pages and pins are what each says of the other."""

from collections.abc import Sequence

import numpy as np

from treeserve.scheduler.tree.holders import PageHolders
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE
from treeserve.scheduler.tree.segment import Segment


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
