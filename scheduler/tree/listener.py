"""The tree's listener: what it is told of every change to the tree's shape."""

from typing import Protocol

from treeserve.scheduler.tree.segment import Segment


class TreeListener(Protocol):
    """Called after the fact, one change at a time: the links between segments are right then.

    It may read the tree (`locate`) and must not change it. Page counts can lag until the tree's
    own method returns.
    """

    def attached(self, segment: Segment) -> None:
        """A new leaf beneath `segment.parent`, which is a root for the first of a namespace."""

    def split(self, upper: Segment, lower: Segment) -> None:
        """`upper` is new, between `lower` and its former parent; `lower` lost its first tokens."""

    def detached(self, segment: Segment, parent: Segment) -> None:
        """The leaf `segment` left; it has no parent any more."""

    def truncated(self, segment: Segment) -> None:
        """The leaf lost its last tokens; its end position is lower now."""
