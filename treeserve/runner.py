"""Carries a step out on the device: model, attention, kept logits and draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treeserve.attention.backend import AttentionBackend
from treeserve.batch import Batch, make_batch
from treeserve.model import LoadedModel
from treeserve.sampler import Drawn, DrawnToken, DrawParams, draw_tokens
from treeserve.scheduler.step import Step


class BrokenLogits(RuntimeError):
    """The model's logits are not numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class _Attend:
    """One step's attention, as the model calls it."""

    backend: AttentionBackend
    batch: Batch

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        layer_index: int,
        scaling: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        return self.backend.attend(
            query,
            key,
            value,
            layer_index,
            self.batch,
            scaling=scaling,
            window=window,
            softcap=softcap,
            sinks=sinks,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Launched:
    """A step on its way through the device, and what it draws."""

    step_number: int
    _drawn: Drawn | None
    _is_finite: Tensor | None

    def read_sync(self) -> list[DrawnToken]:
        """Waits for the device; one token for each of the step's draws.

        Raises:
            BrokenLogits: A row that is drawn from is not finite.
        """
        if self._drawn is None:
            return []
        if not bool(self._is_finite):
            number = self.step_number
            raise BrokenLogits(f"step {number}: the logits of a drawn row are not finite")
        return self._drawn.read_sync()


class Runner:
    """Owns the kept-logits table; everything else of a step is an argument.

    Args:
        model: Runs the rows.
        backend: Runs their attention, and owns the KV store.
        num_kept: Entries of the kept-logits table.
    """

    def __init__(self, model: LoadedModel, backend: AttentionBackend, num_kept: int) -> None:
        self._model = model
        self._backend = backend
        self._kept = torch.zeros(
            num_kept, model.vocabulary_size, dtype=torch.float32, device=model.device
        )
        self._last_drawn: Tensor | None = None

    def run(self, step: Step, draws: Sequence[DrawParams]) -> list[DrawnToken]:
        """One forward pass and its draws: `launch`, and what it drew."""
        return self.launch(step, draws).read_sync()

    @torch.inference_mode()
    def launch(self, step: Step, draws: Sequence[DrawParams]) -> "Launched":
        """Starts one forward pass and its draws.

        The step before may not have been read yet: its tokens go from its draws to this step's rows
        on the device.

        Args:
            step: What to compute.
            draws: Of the samples that draw, one for each of `step.draws`.
        """
        logits = self._compute_logits(step)
        for keep in step.keeps:
            self._kept[keep.kept_index] = logits[keep.logits_index]
        if not len(step.draws):
            self._last_drawn = None
            return Launched(step.number, None, None)
        rows = self._gather_sources(step, logits)
        drawn = draw_tokens(rows, draws, step.draws.positions.tolist())
        self._last_drawn = drawn.token_ids
        return Launched(step.number, drawn, torch.isfinite(rows.amax(dim=-1)).all())

    def _compute_logits(self, step: Step) -> Tensor:
        if step.num_rows == 0:
            return self._kept[:0]
        batch = make_batch(step, self._model.device, self._backend, self._last_drawn)
        attend = _Attend(self._backend, batch)
        return self._model.forward(batch.token_ids, batch.positions, batch.logits_rows, attend)

    def _gather_sources(self, step: Step, logits: Tensor) -> Tensor:
        """[num_draws, vocabulary_size]"""
        sources = torch.from_numpy(step.draws.sources).to(logits.device)
        num_computed = len(step.logits_rows)
        is_kept = step.draws.sources >= num_computed
        if not is_kept.any():
            return logits.index_select(0, sources)
        rows = logits.new_empty(len(sources), logits.shape[1])
        from_kept = torch.from_numpy(is_kept).to(logits.device)
        rows[from_kept] = self._kept[sources[from_kept] - num_computed]
        rows[~from_kept] = logits[sources[~from_kept]]
        return rows
