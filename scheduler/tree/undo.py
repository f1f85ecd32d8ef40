"""Takes back what the tree took for computed, by the slots that were never written."""

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.radix_tree import RadixTree


def uncompute(tree: RadixTree, slots: Int32Array) -> None:
    """The KV in these slots is worth nothing, and so is all that was computed after it.

    Tokens that somebody waits for are pending again; others leave the tree. Slots say which tokens
    those are, whatever was split, adopted, committed or evicted since. In proportion to all that
    is cached.

    Args:
        tree: In which all that follows such a token is in such slots itself.
        slots: As the step would have written them; what is no slot is ignored.
    """
    lost = np.unique(slots)
    # Children first: a segment with computed tokens never has a pending one above it.
    for segment in reversed(tree.segments()):
        is_lost = np.isin(segment.slots[: segment.num_computed], lost)
        if is_lost.any():
            tree.pin(segment)
            tree.mark_computed(segment, int(is_lost.argmax()))
            tree.unpin(segment)
