"""Prefixes whose KV comes from elsewhere or goes there: which slots are theirs in the tree."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.path import Path
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of a prefix that brought its own KV."""

    num_inserted: int
    """Tokens that the tree did not hold: the prefix's last ones."""
    num_missing_pages: int = 0
    """More than 0: there was no room for so many pages, and nothing was inserted."""
    num_pending_end: int = 0
    """More than 0: up to there a live request is computing the prefix, and nothing was inserted."""


def computed_slots(tree: RadixTree, prefix: Prefix) -> Int32Array:
    """The slots [num_computed] of the prefix's first tokens, as far as their KV is computed.

    Changes nothing. They are good until the tree changes: use them before the next step.
    """
    location = tree.locate(prefix)
    path = Path(location.segment).own_segments()
    slots = [segment.slots for segment in path]
    empty = prefix.tokens[:0]
    found: Int32Array = np.concatenate([empty, *slots])[: location.num_computed]
    return found


def insert_computed(
    tree: RadixTree, prefix: Prefix, write: Callable[[Int32Array, int], None]
) -> Inserted:
    """Puts a prefix into the tree as computed, in whole or not at all; pins nothing afterwards.

    Args:
        tree: Between two steps. Evicts as needed; what is pinned is not touched.
        prefix: At least one token, all of one namespace.
        write: Called with the slots of the tokens from a position on and that position, where
            something is missing; stores their KV. What it raises leaves the tree as it was, save
            for what was evicted.
    """
    location = tree.locate(prefix)
    if location.num_computed < location.num_matched:
        return Inserted(0, num_pending_end=location.num_matched)
    if location.num_matched == len(prefix):
        return Inserted(0)
    matched = tree.match(prefix)
    tree.pin(matched)
    try:
        leaf = tree.insert_pending(matched, prefix)
        if leaf is None:
            return Inserted(0, num_missing_pages=tree.num_missing_pages(matched, prefix))
        tree.pin(leaf)
        try:
            # Several, where a retained prefix that was waiting for these tokens ends among them.
            new = [s for s in Path(leaf).own_segments() if s.start_position >= location.num_matched]
            write(np.concatenate([segment.slots for segment in new]), location.num_matched)
            for segment in new:
                tree.mark_computed(segment, len(segment))
        finally:
            # Still pending where the writing failed: then nobody is going to compute it.
            tree.unpin(leaf)
        return Inserted(len(prefix) - location.num_matched)
    finally:
        tree.unpin(matched)
