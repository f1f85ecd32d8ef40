"""The location: where in the tree a prefix ends."""

from dataclasses import dataclass

from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Location:
    """The longest run of a prefix's first tokens that the tree holds, computed or pending."""

    segment: Segment
    """In which the run ends; a root if nothing matches."""
    num_matched: int
    """Tokens from position 0, not after the segment's end."""
    num_computed: int
    """Of those, the ones whose KV is computed: always the first ones."""

    @property
    def is_whole(self) -> bool:
        """Whether the run ends where the segment does."""
        return self.num_matched == self.segment.end_position


def locate_below(start: Location, prefix: Prefix) -> Location:
    """Follows the prefix on from a location on its way, through both its zones."""
    location = start
    while location.is_whole and location.num_matched < len(prefix):
        namespace, end = prefix.zone(location.num_matched)
        location = descend(location, prefix.tokens[location.num_matched : end], namespace)
        if location.num_matched < end:
            break
    return location


def descend(start: Location, tokens: Int32Array, namespace: str) -> Location:
    """Follows tokens of one namespace, the first of them right after `start`, which is whole."""
    segment, num_computed, position = start.segment, start.num_computed, 0
    while position < len(tokens):
        child = segment.children.get((namespace, int(tokens[position])))
        if child is None:
            break
        num_common = count_common(child.tokens, tokens[position:])
        num_computed += min(num_common, child.num_computed)
        position += num_common
        segment = child
        if num_common < len(child):
            break
    return Location(segment, start.num_matched + position, num_computed)


def count_common(a: Int32Array, b: Int32Array) -> int:
    """Length of the longest common prefix; neither is empty."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax())
    return first if different[first] else length
