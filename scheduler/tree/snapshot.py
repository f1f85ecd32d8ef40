"""The tree's snapshot: what it holds, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass

from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, slots=True)
class SegmentSnapshot:
    """One segment as it was."""

    segment_id: int
    """Its own as long as the process lives; a split gives the upper part a new one."""
    parent_id: int | None
    """None for the first of its namespace."""
    namespace: str
    start_position: int
    num_tokens: int
    num_computed_tokens: int
    """Fewer than `num_tokens` while it is pending."""
    num_pages: int
    """A page that two segments share counts in both."""
    pins: int
    """Live requests and samples that need it."""
    hits: int
    """Requests whose path it was on."""
    age_seconds: float
    """Since it was last used; 0 while it is pinned."""
    retained_weight: float
    has_kept_logits: bool
    token_ids: tuple[int, ...] | None
    """None unless they were asked for."""

    @property
    def is_pending(self) -> bool:
        return self.num_computed_tokens < self.num_tokens


@dataclass(frozen=True, slots=True)
class TreeSnapshot:
    """All segments, parents before children, and what they add up to."""

    segments: tuple[SegmentSnapshot, ...]
    depth: int
    """Segments on the longest path."""
    max_fan_out: int
    """Most children of one segment, or of a namespace's root."""
    num_tokens: int
    num_pages: int
    """Held by segments, each counted once."""
    num_evictable_pages: int
    num_retained_tokens: int

    @property
    def num_segments(self) -> int:
        return len(self.segments)


def take_snapshot(
    segments: Sequence[Segment],
    now: float,
    *,
    max_fan_out: int,
    num_pages: int,
    num_evictable_pages: int,
    num_retained_tokens: int,
    include_tokens: bool,
) -> TreeSnapshot:
    """The segments in plain data, parents before children, with totals that they do not show.

    `max_fan_out` is that of the roots.
    """
    return TreeSnapshot(
        segments=tuple(_snapshot_segment(s, now, include_tokens) for s in segments),
        depth=_count_depth(segments),
        max_fan_out=max([max_fan_out, *(len(s.children) for s in segments)]),
        num_tokens=sum(len(s) for s in segments),
        num_pages=num_pages,
        num_evictable_pages=num_evictable_pages,
        num_retained_tokens=num_retained_tokens,
    )


def _snapshot_segment(segment: Segment, now: float, include_tokens: bool) -> SegmentSnapshot:
    parent = segment.parent
    assert parent is not None
    return SegmentSnapshot(
        segment_id=segment.serial,
        parent_id=None if parent.is_root else parent.serial,
        namespace=segment.namespace,
        start_position=segment.start_position,
        num_tokens=len(segment),
        num_computed_tokens=segment.num_computed,
        num_pages=len(segment.pages),
        pins=segment.pins,
        hits=segment.hits,
        age_seconds=0.0 if segment.pins else max(0.0, now - segment.last_used_at),
        retained_weight=segment.retained_weight,
        has_kept_logits=segment.kept_index is not None,
        token_ids=tuple(segment.tokens.tolist()) if include_tokens else None,
    )


def _count_depth(segments: Sequence[Segment]) -> int:
    """Segments on the longest path; parents come before children."""
    depths: dict[Segment, int] = {}
    for segment in segments:
        assert segment.parent is not None
        depths[segment] = depths.get(segment.parent, 0) + 1
    return max(depths.values(), default=0)
