"""Carries a step out on the device: model, attention, kept logits and draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from treeserve.attention.backend import AttentionBackend
from treeserve.batch import PlanCutter, make_batch
from treeserve.device_slots import DeviceSlots
from treeserve.graphs import Capture, DecodeGraphs
from treeserve.model import LoadedModel
from treeserve.ranks.leader import Leader
from treeserve.sampler import (
    Drawn,
    DrawnToken,
    DrawParams,
    DrawTable,
    draw_from_table,
    rows_of_piece,
)
from treeserve.scheduler.step import Step
from treeserve.step_attention import StepAttention
from treeserve.token_scores import ScoredPrompts, score_prompts
from treeserve.transfer import send
from treeserve.types import TokenLogprob


class BrokenLogits(RuntimeError):
    """The model's logits are not numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Launched:
    """A step on its way through the device, and what it draws."""

    step_number: int
    _drawn: Drawn | None
    _scored: ScoredPrompts | None = None

    def read_sync(self) -> list[DrawnToken]:
        """Waits for the device, once; one token for each of the step's draws.

        Raises:
            BrokenLogits: A row that is drawn from is not finite.
        """
        if self._drawn is None:
            return []
        read = self._drawn.read_step_sync()
        if not read.is_finite:
            number = self.step_number
            raise BrokenLogits(f"step {number}: the logits of a drawn row are not finite")
        return read.tokens

    def read_scores_sync(self) -> list[TokenLogprob]:
        """Waits for the device; one for each of the step's scores.

        Raises:
            BrokenLogits: One of them is not a number.
        """
        scored = [] if self._scored is None else self._scored.read_sync()
        if scored is None:
            number = self.step_number
            raise BrokenLogits(f"step {number}: the logits of a prompt's row are not finite")
        return scored


class Runner:
    """Owns the kept-logits table and what stays on the device from step to step.

    Args:
        model: Runs the rows.
        backend: Runs their attention, and owns the KV store.
        num_kept: Entries of the kept-logits table.
        capture: Makes graphs of decode steps. None: every step runs eager.
        max_graph_rows: Rows of a step with a graph, at most.
        draw: Draws the tokens; another one is for measuring.
        leader: Of the other ranks, who compute every step along; None: there are none.
    """

    def __init__(
        self,
        model: LoadedModel,
        backend: AttentionBackend,
        num_kept: int,
        capture: Capture | None = None,
        max_graph_rows: int = 256,
        draw: Callable[[Tensor, DrawTable, Tensor], Drawn] = draw_from_table,
        leader: Leader | None = None,
    ) -> None:
        self._draw_rows = draw
        self._model = model
        self._backend = backend
        self._leader = leader
        self._kept = torch.zeros(
            num_kept, model.vocabulary_size, dtype=torch.float32, device=model.device
        )
        self._last_drawn: Tensor | None = None
        self._table = DrawTable([], model.device)
        self._cutter = None if backend.shape_rows is None else PlanCutter(backend.shape_rows)
        self._slots = DeviceSlots(model.device) if backend.reads_device_slots else None
        self._graphs: DecodeGraphs | None = None
        if capture is not None:
            self._graphs = DecodeGraphs(model, backend, capture, max_graph_rows)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._model.device

    @torch.inference_mode()
    def launch(self, step: Step, draws: Sequence[DrawParams]) -> "Launched":
        """Starts one forward pass and its draws; does not wait for the device.

        The step before may not have been read yet: its tokens go from its draws to this step's rows
        on the device. But while a graph is captured, which happens once per bucket, the device is
        waited for.

        Args:
            step: What to compute.
            draws: Of the samples that draw, one for each of `step.draws`. The same object as long
                as the same samples draw: what they have in common is then not sent again.
        """
        # A launch that fails leaves nothing for later rows to stand on.
        last_drawn, self._last_drawn = self._last_drawn, None
        if self._leader is None or step.num_rows == 0:
            logits, scored = self._compute_logits(step, last_drawn)
        else:
            with self._leader.together(step, last_drawn):
                logits, scored = self._compute_logits(step, last_drawn)
        for keep in step.keeps:
            self._kept[keep.kept_index].copy_(logits[keep.logits_index])
        if not len(step.draws):
            return Launched(step.number, None, scored)
        drawn = self._draw(step, logits, draws)
        self._last_drawn = drawn.token_ids
        return Launched(step.number, drawn, scored)

    @torch.inference_mode()
    def compute_along(self, step: Step, last_drawn: Tensor | None) -> None:
        """Another rank's part of a step that rank 0 launches: all but its draws.

        Args:
            step: With at least one row.
            last_drawn: [num_draws] int64 on the device, what rank 0 drew in the step before, if
                this one's rows need it.
        """
        self._compute_logits(step, last_drawn)

    def _compute_logits(
        self, step: Step, last_drawn: Tensor | None
    ) -> tuple[Tensor, ScoredPrompts | None]:
        """[num_logits, vocabulary_size], and what the step says of prompts."""
        if step.num_rows == 0:
            return self._kept[:0], None
        if self._slots is not None:
            self._slots.update(step.plan)
            if self._graphs is not None and self._cutter is not None:
                logits = self._graphs.compute_logits(step, self._slots, self._cutter, last_drawn)
                if logits is not None:
                    return logits, None
        batch = make_batch(
            step, self._model.device, self._backend, last_drawn, self._slots, self._cutter
        )
        attend = StepAttention(self._backend, batch)
        if step.scores is None:
            rows = batch.logits_rows
            return self._model.forward(batch.token_ids, batch.positions, rows, attend), None
        head = self._model.head
        states = head.hidden_states(batch.token_ids, batch.positions, attend)
        logits = head.logits(states.index_select(0, batch.logits_rows))
        return logits, score_prompts(step.scores, states, head.logits, self._model.vocabulary_size)

    def _draw(self, step: Step, logits: Tensor, draws: Sequence[DrawParams]) -> Drawn:
        if draws is not self._table.draws:
            piece_rows = rows_of_piece(self._model.vocabulary_size, logits.device)
            self._table = DrawTable(draws, logits.device, piece_rows)
        sources = step.draws.sources.astype(np.int64)
        is_kept = sources >= len(logits)
        from_kept = np.flatnonzero(is_kept)
        uniforms, computed, into, kept = send(
            [
                self._table.uniforms(step.draws.positions),
                np.where(is_kept, 0, sources),
                from_kept,
                sources[from_kept] - len(logits),
            ],
            logits.device,
        )
        if len(from_kept) == len(sources):
            rows = self._kept.index_select(0, kept)
        elif len(sources) == len(logits) and (sources == np.arange(len(sources))).all():
            rows = logits
        else:
            rows = logits.index_select(0, computed)
            if len(from_kept):
                rows = rows.float()
                rows.index_copy_(0, into, self._kept.index_select(0, kept))
        return self._draw_rows(rows, self._table, uniforms)
