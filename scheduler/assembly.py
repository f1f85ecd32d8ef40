"""The assembly of one step: rows in budget, who computes what, and which logits are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

import numpy as np

from treeserve.scheduler.kept import KeptLogits
from treeserve.scheduler.live import LiveRequest, LiveSample
from treeserve.scheduler.segment import Segment
from treeserve.scheduler.step import NO_SLOT, Draw, Int32Array, Keep, Plan, Step
from treeserve.scheduler.trie import Chunk

Planner: TypeAlias = Callable[[Sequence[Chunk], Int32Array], Plan]

_EMPTY = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """In this step the request computes tokens `[start, end)` of a pending segment."""

    request: LiveRequest
    segment: Segment
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """A step, and whom its results belong to."""

    step: Step
    chunks: tuple[Chunk, ...]
    decoded: tuple[LiveSample, ...]
    claims: tuple[Claim, ...]
    recomputed: tuple[LiveRequest, ...]
    drawing: tuple[LiveSample, ...]
    """One for each of the step's draws."""
    kept: tuple[Segment, ...]
    """Segments whose logits this step keeps."""
    plan_seconds: float

    def request_ids(self) -> list[str]:
        """Requests with rows or draws in the step, in order and once each."""
        owners = [s.request for s in self.decoded]
        owners += [claim.request for claim in self.claims]
        owners += [*self.recomputed, *(s.request for s in self.drawing)]
        return list(dict.fromkeys(request.request_id for request in owners))


class Assembly:
    """Grows row by row: decoding samples first, then prompts in the order of admission.

    Tokens that this step computes count as present for whoever comes later in the same step, since
    every layer writes all K and V before any row attends.
    """

    def __init__(self, token_budget: int, prompt_ends: Mapping[Segment, int]) -> None:
        self._token_budget = token_budget
        self._prompt_ends = prompt_ends
        self._num_rows = 0
        self._tokens: list[Int32Array] = []
        self._positions: list[Int32Array] = []
        self._slots: list[Int32Array] = []
        self._chunks: list[Chunk] = []
        self._decoded: list[LiveSample] = []
        self._claims: list[Claim] = []
        self._recomputed: list[LiveRequest] = []
        self._claimed: dict[Segment, int] = {}
        self._logits_rows: list[int] = []
        self._logits_at: dict[Segment, int] = {}

    def add_decode_rows(self, samples: Sequence[LiveSample]) -> None:
        """One row each, for the last drawn token, whose slot the tail has already."""
        paths: dict[LiveRequest, tuple[Segment, ...]] = {}
        for row, sample in enumerate(samples):
            if sample.request not in paths:
                paths[sample.request] = sample.request.live_path.segments()
            tail = sample.tail
            path = paths[sample.request]
            self._chunks.append(Chunk(path, tail.slots, row, 1, tail.position + 1))
        self._tokens.append(np.array([s.tail.tokens[-1] for s in samples], dtype=np.int32))
        self._positions.append(np.array([s.tail.position for s in samples], dtype=np.int32))
        self._slots.append(np.array([s.tail.slots[-1] for s in samples], dtype=np.int32))
        self._logits_rows.extend(range(len(samples)))
        self._decoded.extend(samples)
        self._num_rows = len(samples)

    def add_prompt_rows(self, request: LiveRequest) -> None:
        """Computes what the prompt still misses, as far as the budget goes."""
        leaf = request.live_path.leaf
        if not self._is_present(leaf):
            self._claim_pending(request)
        elif self._needs_logits(request) and self._num_left > 0:
            self._recompute_last(request)

    def build(
        self, number: int, requests: Sequence[LiveRequest], kept: KeptLogits, planner: Planner
    ) -> InFlight | None:
        """Lets every sample draw that can; None when there is nothing to do at all."""
        locked: set[int] = set()
        sources = [(sample, row) for row, sample in enumerate(self._decoded)]
        for request in requests:
            sources += self._first_sources(request, kept, locked)
        draws = tuple(_draw(sample, source) for sample, source in sources)
        if not self._num_rows and not draws:
            return None
        keeps, kept_segments = self._keep(kept, locked)
        positions = _join(self._positions)
        started = perf_counter()
        plan = planner(self._chunks, positions)
        plan_seconds = perf_counter() - started
        step = Step(
            number=number,
            token_ids=_join(self._tokens),
            positions=positions,
            write_slots=_join(self._slots),
            logits_rows=np.array(self._logits_rows, dtype=np.int32),
            keeps=keeps,
            draws=draws,
            plan=plan,
            num_prompt_rows=self._num_rows - len(self._decoded),
        )
        return InFlight(
            step=step,
            chunks=tuple(self._chunks),
            decoded=tuple(self._decoded),
            claims=tuple(self._claims),
            recomputed=tuple(self._recomputed),
            drawing=tuple(sample for sample, _ in sources),
            kept=kept_segments,
            plan_seconds=plan_seconds,
        )

    @property
    def _num_left(self) -> int:
        return self._token_budget - self._num_rows

    def _is_present(self, segment: Segment) -> bool:
        return self._num_present(segment) == len(segment)

    def _num_present(self, segment: Segment) -> int:
        return self._claimed.get(segment, segment.num_computed)

    def _needs_logits(self, request: LiveRequest) -> bool:
        leaf = request.live_path.leaf
        if leaf in self._logits_at or leaf.kept_index is not None:
            return False
        return any(not sample.has_drawn for sample in request.running.values())

    def _claim_pending(self, request: LiveRequest) -> None:
        path = request.live_path.segments()
        first_row, end_position = self._num_rows, 0
        for segment in path:
            start = self._num_present(segment)
            end = min(len(segment), start + self._num_left)
            if start == end:
                continue
            self._claims.append(Claim(request, segment, start, end))
            self._claimed[segment] = end
            end_position = segment.start_position + end
            self._add_rows(
                segment.tokens[start:end],
                segment.start_position + start,
                segment.slots[start:end],
            )
            if end == len(segment) and segment in self._prompt_ends:
                self._add_logits(segment)
        if self._num_rows > first_row:
            self._add_chunk(path, first_row, end_position)

    def _recompute_last(self, request: LiveRequest) -> None:
        path, end_position = request.live_path.segments(), request.prompt_length
        slots = np.array([NO_SLOT], dtype=np.int32)
        self._add_rows(request.request.prompt[-1:], end_position - 1, slots)
        self._add_chunk(path, self._num_rows - 1, end_position)
        self._add_logits(request.live_path.leaf)
        self._recomputed.append(request)

    def _add_rows(self, tokens: Int32Array, start_position: int, slots: Int32Array) -> None:
        end_position = start_position + len(tokens)
        self._tokens.append(tokens)
        self._positions.append(np.arange(start_position, end_position, dtype=np.int32))
        self._slots.append(slots)
        self._num_rows += len(tokens)

    def _add_chunk(self, path: tuple[Segment, ...], first_row: int, end_position: int) -> None:
        path = tuple(s for s in path if s.start_position < end_position)
        num_rows = self._num_rows - first_row
        self._chunks.append(Chunk(path, _EMPTY, first_row, num_rows, end_position))

    def _add_logits(self, segment: Segment) -> None:
        self._logits_at[segment] = len(self._logits_rows)
        self._logits_rows.append(self._num_rows - 1)

    def _first_sources(
        self, request: LiveRequest, kept: KeptLogits, locked: set[int]
    ) -> list[tuple[LiveSample, int]]:
        samples = [sample for sample in request.running.values() if not sample.has_drawn]
        leaf = request.live_path.leaf
        if not samples:
            return []
        if leaf in self._logits_at:
            source = self._logits_at[leaf]
        elif leaf.kept_index is not None:
            source = len(self._logits_rows) + kept.use(leaf)
            locked.add(leaf.kept_index)
        else:
            return []
        return [(sample, source) for sample in samples]

    def _keep(
        self, kept: KeptLogits, locked: set[int]
    ) -> tuple[tuple[Keep, ...], tuple[Segment, ...]]:
        keeps, segments = [], []
        for segment, logits_index in self._logits_at.items():
            kept_index = kept.keep(segment, locked)
            if kept_index is None:
                break
            locked.add(kept_index)
            keeps.append(Keep(logits_index, kept_index))
            segments.append(segment)
        return tuple(keeps), tuple(segments)


def _draw(sample: LiveSample, source: int) -> Draw:
    return Draw(sample.request.request_id, sample.index, sample.tail.position + 1, source)


def _join(parts: list[Int32Array]) -> Int32Array:
    return np.concatenate([_EMPTY, *parts])
