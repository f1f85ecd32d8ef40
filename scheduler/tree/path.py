"""The path: the ordered segments that a sample attends to before its tail."""

from dataclasses import dataclass

from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, slots=True)
class Path:
    """Everything from the root down to `leaf`.

    The leaf outlives every split (a split puts the new segment above it), so a path is derived when
    it is read and always sees the tree as it is.
    """

    leaf: Segment

    @property
    def num_tokens(self) -> int:
        return self.leaf.end_position

    def segments(self) -> tuple[Segment, ...]:
        """Uppermost first, without the root."""
        segments = []
        segment: Segment | None = self.leaf
        while segment is not None and not segment.is_root:
            segments.append(segment)
            segment = segment.parent
        return tuple(reversed(segments))

    def check(self) -> None:
        """Raises AssertionError unless it is pinned and runs from position 0 without a gap."""
        position = 0
        for segment in self.segments():
            assert segment.start_position == position, f"gap before {segment}"
            assert segment.pins > 0, f"{segment} is on a live path and not pinned"
            position = segment.end_position
        assert position == self.num_tokens, "a path ends before its leaf"


def num_pending_tokens(leaf: Segment) -> int:
    """Tokens of the path that are not computed yet."""
    num_tokens = 0
    segment: Segment | None = leaf
    while segment is not None and segment.is_pending:
        num_tokens += len(segment) - segment.num_computed
        segment = segment.parent
    return num_tokens
