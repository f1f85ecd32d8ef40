"""The rows of one step that say how likely prompt tokens are: which there are, whose they are."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from treeserve.scheduler.live import LiveRequest
from treeserve.scheduler.scoring import BoolArray
from treeserve.scheduler.step import Int32Array, ScoredPart, Scores
from treeserve.scheduler.tree.path import Path
from treeserve.scheduler.tree.segment import Segment


class ScoreRows:
    """Every row that computes prompt tokens serves all requests whose paths it lies on."""

    def __init__(self) -> None:
        self._spans: dict[Segment, list[tuple[int, int, int]]] = {}
        self._requests: dict[LiveRequest, Segment] = {}

    def note_rows(self, segment: Segment, start: int, end: int, first_row: int) -> None:
        """The step has rows for tokens `[start, end)` of a segment."""
        self._spans.setdefault(segment, []).append((start, end, first_row))

    def add_request(self, request: LiveRequest, leaf: Segment) -> None:
        """A request whose prompt ends with the leaf, and is not scored yet."""
        self._requests[request] = leaf

    def is_whole(self, request: LiveRequest) -> bool:
        """Whether with this step it lacks nothing."""
        return not self._missing(request).any()

    def runs(self, request: LiveRequest, end: int) -> list[tuple[int, int]]:
        """Positions `[start, end)` before `end` that it still lacks rows for, in order."""
        missing = self._missing(request)[:end]
        edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
        return [(start, stop) for start, stop in list(pairwise(edges.tolist()))[::2]]

    def note_path_rows(self, leaf: Segment, start: int, end: int, first_row: int) -> None:
        """The step has rows for the positions `[start, end)` of the leaf's path."""
        for segment in Path(leaf).segments():
            own_start = max(start, segment.start_position)
            own_end = min(end, segment.end_position)
            if own_start < own_end:
                base = segment.start_position
                row = first_row + own_start - start
                self.note_rows(segment, own_start - base, own_end - base, row)

    def build(self) -> tuple[Scores | None, tuple[tuple[LiveRequest, Int32Array], ...]]:
        """What the step's rows say, and (request, positions of the rows that are its)."""
        found = [(request, *self._found(request, leaf)) for request, leaf in self._requests.items()]
        found = [each for each in found if len(each[1])]
        if not found:
            return None, ()
        pairs = np.concatenate(
            [
                np.stack([rows, request.request.prompt[positions + 1]])
                for request, positions, rows in found
            ],
            axis=1,
        )
        unique, entries = np.unique(pairs, axis=1, return_inverse=True)
        ends = np.cumsum([len(positions) for _, positions, _ in found])
        parts = tuple(
            ScoredPart(request.request_id, positions + np.int32(1), own.astype(np.int32))
            for (request, positions, _), own in zip(
                found, np.split(entries.ravel(), ends[:-1]), strict=True
            )
        )
        num_top = max(request.request.prompt_logprobs or 0 for request, _, _ in found)
        scores = Scores(unique[0], unique[1], num_top, parts)
        return scores, tuple((request, positions) for request, positions, _ in found)

    def _missing(self, request: LiveRequest) -> BoolArray:
        assert request.scoring is not None
        missing = request.scoring.missing.copy()
        for start, end, _ in self._spans_of(self._requests[request]):
            missing[start:end] = False
        return missing

    def _found(self, request: LiveRequest, leaf: Segment) -> tuple[Int32Array, Int32Array]:
        """Positions that it lacked until now, ascending, and the rows of this step for them."""
        assert request.scoring is not None
        missing = request.scoring.missing
        rows = np.full(len(missing), -1, dtype=np.int32)
        for start, end, first_row in self._spans_of(leaf):
            own = rows[start:end]
            own[:] = np.arange(first_row, first_row + len(own))
        positions = np.flatnonzero((rows >= 0) & missing).astype(np.int32)
        return positions, rows[positions]

    def _spans_of(self, leaf: Segment) -> Iterator[tuple[int, int, int]]:
        """(start, end, first row) by position, of the step's rows on the leaf's path."""
        for segment in Path(leaf).segments():
            for start, end, first_row in self._spans.get(segment, ()):
                base = segment.start_position
                yield base + start, base + end, first_row
