"""The path: the ordered segments that a sample attends to before its tail."""

from dataclasses import dataclass

from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, slots=True)
class Path:
    """The modules that it imports, if any, and everything from the root down to `leaf`.

    The leaf outlives every split (a split puts the new segment above it), so a path is derived when
    it is read and always sees the tree as it is.
    """

    leaf: Segment

    @property
    def num_tokens(self) -> int:
        """Beneath the root: modules do not count."""
        return self.leaf.end_position

    def segments(self) -> tuple[Segment, ...]:
        """Modules first, then uppermost first, without the root."""
        return tuple(reversed(climb_all(self.leaf)))

    def own_segments(self) -> tuple[Segment, ...]:
        """The same without the modules."""
        return tuple(reversed(climb(self.leaf)))

    def check(self) -> None:
        """Raises AssertionError unless it is pinned and runs from position 0 without a gap."""
        position = 0
        for module in self.leaf.modules:
            assert module.pins > 0, f"module {module} is on a live path and not pinned"
            assert not module.is_pending, f"module {module} is imported and not computed"
        for segment in self.own_segments():
            assert segment.start_position == position, f"gap before {segment}"
            assert segment.pins > 0, f"{segment} is on a live path and not pinned"
            position = segment.end_position
        assert position == self.num_tokens, "a path ends before its leaf"


def climb(leaf: Segment) -> list[Segment]:
    """The path from the leaf up, without the root."""
    path = []
    segment = leaf
    while segment.parent is not None:
        path.append(segment)
        segment = segment.parent
    return path


def climb_all(leaf: Segment) -> list[Segment]:
    """As `climb`, and through the root on into the modules that it imports."""
    path = climb(leaf)
    path.extend(reversed(leaf.modules))
    return path


def climb_pending(leaf: Segment) -> list[Segment]:
    """As `climb`, but no further than the path is pending."""
    path = []
    segment: Segment | None = leaf
    while segment is not None and segment.is_pending:
        path.append(segment)
        segment = segment.parent
    return path


def num_pending_tokens(leaf: Segment) -> int:
    """Tokens of the path that are not computed yet."""
    return sum(len(segment) - segment.num_computed for segment in climb_pending(leaf))
