"""The assembly of one step: rows in budget, who computes what, and which logits are drawn from."""

from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from time import perf_counter
from typing import TypeAlias

import numpy as np

from treeserve.scheduler.awaiting import Awaiting
from treeserve.scheduler.flight import Claim, InFlight
from treeserve.scheduler.live import LiveRequest, LiveSample
from treeserve.scheduler.plan.trie import Chunk
from treeserve.scheduler.rows import DecodeRows
from treeserve.scheduler.score_rows import ScoreRows
from treeserve.scheduler.step import NO_SLOT, Draws, Int32Array, Keep, Plan, SampleKey, Step
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.path import climb_pending, num_pending_tokens
from treeserve.scheduler.tree.segment import Segment

PlanStep: TypeAlias = Callable[[Sequence[LiveSample], Sequence[Chunk], Int32Array], Plan]
"""(decoding samples, chunks of prompts, positions) -> plan"""


class Assembly:
    """Grows row by row: decoding samples first, then prompts, those with least to compute first.

    But of prompts that are not computed yet, the one that started first gets half of their rows if
    it needs them: short ones do not wait for the end of a long one, nor do they hold it up.

    Tokens that this step computes count as present for whoever comes later in the same step, since
    every layer writes all K and V before any row attends.
    """

    def __init__(self, token_budget: int, rows: DecodeRows, awaiting: Awaiting) -> None:
        self._num_decoding = len(rows)
        self._num_left = token_budget - len(rows)
        self._rows = rows
        self._awaiting = awaiting
        self._tokens = [rows.token_ids]
        self._positions = [rows.positions]
        self._laid_out: list[tuple[int, Int32Array]] = []
        self._slots = [rows.slots]
        self._chunks: list[Chunk] = []
        self._claims: list[Claim] = []
        self._recomputed: list[tuple[LiveRequest, int, int]] = []
        self._scores = ScoreRows()
        self._claimed: dict[Segment, int] = {}
        self._prompt_logits_rows: list[int] = []
        self._logits_at: dict[Segment, int] = {}
        self._num_rows = len(rows)

    def add_prompts(self) -> None:
        """Computes what the paths of awaited leaves still miss, as far as the budget goes."""
        awaited = [(self._num_missing(leaf), leaf) for leaf in self._awaiting.leaves()]
        for _, leaf in awaited:
            for request in self._awaiting.scorers(leaf):
                self._scores.add_request(request, leaf)
        num_oldest, oldest = next((each for each in awaited if each[0]), (0, None))
        num_kept = min(num_oldest, half_of(self._num_left))
        for _, leaf in sorted(awaited, key=itemgetter(0)):
            if leaf is oldest:
                num_kept = 0
            self._add_prompt_rows(leaf, self._num_left - num_kept)

    def build(self, number: int, kept: KeptLogits, plan_step: PlanStep) -> InFlight | None:
        """Lets every sample draw that can; None when there is nothing to do at all."""
        locked: set[int] = set()
        first_drawing, first_sources = self._first_sources(kept, locked)
        if not self._num_rows and not first_drawing:
            return None
        keeps, kept_segments = self._keep(kept, locked)
        positions = np.concatenate(self._positions)
        started = perf_counter()
        plan = plan_step(self._rows.samples, self._chunks, positions)
        plan_seconds = perf_counter() - started
        scores, scored = self._scores.build()
        step = Step(
            number=number,
            token_ids=np.concatenate(self._tokens),
            positions=positions,
            write_slots=np.concatenate(self._slots),
            logits_rows=self._with_decode_rows(self._prompt_logits_rows),
            keeps=keeps,
            draws=self._draws(first_drawing, first_sources),
            plan=plan,
            num_prompt_rows=self._num_rows - self._num_decoding,
            scores=scores,
            maybe_model_positions=self._model_positions(positions),
        )
        return InFlight(
            step=step,
            samples=tuple(self._rows.samples),
            num_decoding_by_tenant=dict(self._rows.num_by_tenant),
            chunks=tuple(self._chunks),
            claims=tuple(self._claims),
            recomputed=tuple(self._recomputed),
            scored=scored,
            first_drawing=tuple(first_drawing),
            kept=kept_segments,
            plan_seconds=plan_seconds,
        )

    def _add_prompt_rows(self, leaf: Segment, max_rows: int) -> None:
        if max_rows <= 0:
            return
        last_row = self._num_rows + max_rows
        for request in self._awaiting.scorers(leaf):
            self._score(request, leaf, last_row - self._num_rows)
        if self._num_rows == last_row:
            return
        if not self._is_present(leaf):
            self._claim_pending(leaf, last_row - self._num_rows)
        elif leaf not in self._logits_at and leaf.kept_index is None and self._drawing(leaf):
            self._recompute_last(leaf)

    def _num_missing(self, leaf: Segment) -> int:
        """Rows until it can be drawn after the leaf, in this step and later ones."""
        scored = [
            request.scoring.num_missing
            for request in self._awaiting.scorers(leaf)
            if request.scoring is not None
        ]
        return max([num_pending_tokens(leaf), *scored])

    def _score(self, request: LiveRequest, leaf: Segment, max_rows: int) -> None:
        """Computes rows again whose logits the request needs and nobody computes in this step."""
        pending = [segment for segment in climb_pending(leaf) if not self._is_present(segment)]
        end_present = leaf.end_position
        if pending:
            end_present = pending[-1].start_position + self._num_present(pending[-1])
        for start, end in self._scores.runs(request, end_present):
            end = min(end, start + max_rows)
            if start == end:
                return
            max_rows -= end - start
            self._scores.note_path_rows(leaf, start, end, self._num_rows)
            slots = np.full(end - start, NO_SLOT, dtype=np.int32)
            self._add_rows(leaf, request.request.prompt[start:end], start, slots)
            self._add_chunk(leaf, self._num_rows - (end - start), end)
            self._recomputed.append((request, start, end))

    def _drawing(self, leaf: Segment) -> Collection[LiveSample]:
        """Samples at the leaf that can draw in this step: no part of their prompts is unscored."""
        samples = self._awaiting.samples(leaf)
        held = {r for r in self._awaiting.scorers(leaf) if not self._scores.is_whole(r)}
        if not held:
            return samples
        return [sample for sample in samples if sample.request not in held]

    def _is_present(self, segment: Segment) -> bool:
        return self._num_present(segment) == len(segment)

    def _num_present(self, segment: Segment) -> int:
        return self._claimed.get(segment, segment.num_computed)

    def _claim_pending(self, leaf: Segment, max_rows: int) -> None:
        request = self._awaiting.first_request(leaf)
        first_row, end_position = self._num_rows, 0
        for segment in reversed(climb_pending(leaf)):
            start = self._num_present(segment)
            end = min(len(segment), start + max_rows - (self._num_rows - first_row))
            if start == end:
                continue
            self._claims.append(Claim(request, segment, start, end, segment.start_position))
            self._claimed[segment] = end
            self._scores.note_rows(segment, start, end, self._num_rows)
            end_position = segment.start_position + end
            tokens, slots = segment.tokens[start:end], segment.slots[start:end]
            self._add_rows(segment, tokens, segment.start_position + start, slots)
            if end == len(segment) and segment in self._awaiting:
                self._add_logits(segment)
        if self._num_rows > first_row:
            self._add_chunk(leaf, first_row, end_position)

    def _recompute_last(self, leaf: Segment) -> None:
        slots = np.array([NO_SLOT], dtype=np.int32)
        self._add_rows(leaf, leaf.tokens[-1:], leaf.end_position - 1, slots)
        self._add_chunk(leaf, self._num_rows - 1, leaf.end_position)
        self._add_logits(leaf)
        request = self._awaiting.first_request(leaf)
        self._recomputed.append((request, leaf.end_position - 1, leaf.end_position))

    def _add_rows(self, leaf: Segment, tokens: Int32Array, start: int, slots: Int32Array) -> None:
        """Tokens of the leaf's path, from that place on."""
        end = start + len(tokens)
        if leaf.layout is not None:
            self._laid_out.append((self._num_rows, leaf.layout.model_positions(start, end)))
        self._tokens.append(tokens)
        self._positions.append(np.arange(start, end, dtype=np.int32))
        self._slots.append(slots)
        self._num_rows += len(tokens)
        self._num_left -= len(tokens)

    def _model_positions(self, positions: Int32Array) -> Int32Array | None:
        """None where every row stands at its place."""
        decoding = self._rows.maybe_model_positions
        if decoding is None and not self._laid_out:
            return None
        model_positions = positions.copy()
        if decoding is not None:
            model_positions[: len(decoding)] = decoding
        for first_row, laid_out in self._laid_out:
            model_positions[first_row : first_row + len(laid_out)] = laid_out
        return model_positions

    def _add_chunk(self, leaf: Segment, first_row: int, end_position: int) -> None:
        num_rows = self._num_rows - first_row
        self._chunks.append(Chunk(leaf, first_row, num_rows, end_position))

    def _add_logits(self, segment: Segment) -> None:
        self._logits_at[segment] = self._num_decoding + len(self._prompt_logits_rows)
        self._prompt_logits_rows.append(self._num_rows - 1)

    def _first_sources(
        self, kept: KeptLogits, locked: set[int]
    ) -> tuple[list[LiveSample], list[int]]:
        num_logits = self._num_decoding + len(self._prompt_logits_rows)
        drawing: list[LiveSample] = []
        sources: list[int] = []
        for leaf in self._awaiting.leaves():
            samples = self._drawing(leaf)
            if not samples:
                continue
            if leaf in self._logits_at:
                source = self._logits_at[leaf]
            elif leaf.kept_index is not None:
                source = num_logits + kept.use(leaf)
                locked.add(leaf.kept_index)
            else:
                continue
            drawing += samples
            sources += [source] * len(samples)
        return drawing, sources

    def _draws(self, first_drawing: list[LiveSample], first_sources: list[int]) -> Draws:
        keys: tuple[SampleKey, ...] = self._rows.keys
        if first_drawing:
            keys += tuple(sample.key for sample in first_drawing)
        first_positions = [sample.leaf.end_position for sample in first_drawing]
        return Draws(
            samples=keys,
            positions=np.concatenate(
                [self._rows.positions + np.int32(1), np.array(first_positions, dtype=np.int32)]
            ),
            sources=self._with_decode_rows(first_sources),
        )

    def _with_decode_rows(self, others: list[int]) -> Int32Array:
        """Every decoding sample's row reaches the output head and is drawn from."""
        decoding = np.arange(self._num_decoding, dtype=np.int32)
        return np.concatenate([decoding, np.array(others, dtype=np.int32)])

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


def half_of(num_prompt_rows: int) -> int:
    """Rows of a step that the oldest prompt can count on, and those that short ones may take."""
    return (num_prompt_rows + 1) // 2
