"""Decode steps as graphs: which steps replay one, and what happens when capturing fails."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from treeserve.attention.backend import AttentionBackend
from treeserve.batch import PlanCutter
from treeserve.device_slots import DeviceSlots
from treeserve.model import LoadedModel
from treeserve.scheduler.step import Step
from treeserve.static_batch import Bucket, StaticBatch, padded_rows
from treeserve.step_attention import StepAttention

logger = logging.getLogger(__name__)

Work: TypeAlias = Callable[[], None]


class Capture(Protocol):
    """How work becomes a graph."""

    def warm_up(self, work: Work) -> None:
        """Run it once, as it is."""

    def capture(self, work: Work) -> Work:
        """Record it without running it; what is returned runs it, on the same tensors and with the
        same host values.
        """

    def forget(self) -> None:
        """All that was captured is about to be dropped; wait until none of it is running."""


@dataclass(slots=True, eq=False)
class _Graph:
    """A bucket's buffers and, from its second step on, its graph."""

    static: StaticBatch
    work: Work
    is_warm: bool = False
    replay: Work | None = None


class DecodeGraphs:
    """Replays one graph per bucket for steps in which every row decodes and is drawn from.

    The first step of a bucket runs eager on its buffers, the second is captured. Once that fails,
    every step runs eager: the model waits for the device within its forward pass, or memory is
    short. All graphs write their logits to the same place, so they are good until the next step is
    launched.

    Args:
        model: Runs the rows.
        backend: Runs their attention.
        capture: Makes the graphs.
        max_rows: Of a step with a graph.
    """

    def __init__(
        self, model: LoadedModel, backend: AttentionBackend, capture: Capture, max_rows: int
    ) -> None:
        self._model = model
        self._backend = backend
        self._capture = capture
        self._max_rows = max_rows
        self._logits: Tensor | None = None
        self._slot_entries: Tensor | None = None
        self._graphs: dict[Bucket, _Graph] = {}
        self._is_off = False

    def compute_logits(
        self, step: Step, slots: DeviceSlots, cutter: PlanCutter, last_drawn: Tensor | None
    ) -> Tensor | None:
        """[num_rows, vocabulary_size] float32; None where the step has to run eager.

        Args:
            step: With at least one row.
            slots: Up to date with the step's plan.
            cutter: For this backend.
            last_drawn: As for `make_batch`.
        """
        if self._is_off or not _decodes_only(step) or step.num_rows > self._max_rows:
            return None
        cut = cutter.cut(step.plan)
        bucket = Bucket(padded_rows(step.num_rows, self._max_rows), cut.tiles.widest_shape)
        if not bucket.holds(step, cut):
            return None
        try:
            graph = self._graph_of(bucket, slots)
        except Exception as error:
            self._turn_off(error)
            return None
        graph.static.fill(step, cut, last_drawn)
        if not self._run(graph):
            return None
        assert self._logits is not None
        return self._logits[: step.num_rows]

    def _graph_of(self, bucket: Bucket, slots: DeviceSlots) -> _Graph:
        if slots.entries is not self._slot_entries:
            # The arena has moved, and the graphs read it where it was.
            self._drop_graphs()
            self._slot_entries = slots.entries
        if bucket not in self._graphs:
            static = StaticBatch(bucket, self._model.device, self._backend, slots)
            self._graphs[bucket] = _Graph(static, self._work(static, bucket))
        return self._graphs[bucket]

    def _work(self, static: StaticBatch, bucket: Bucket) -> Work:
        if self._logits is None:
            self._logits = torch.empty(
                self._max_rows, self._model.vocabulary_size, device=self._model.device
            )
        logits, model, backend = self._logits[: bucket.num_rows], self._model, self._backend

        def work() -> None:
            batch = static.batch()
            attend = StepAttention(backend, batch)
            # The copy is the conversion to float32 that an eager step makes anyway.
            logits.copy_(model.forward(batch.token_ids, batch.positions, batch.logits_rows, attend))

        return work

    def _run(self, graph: _Graph) -> bool:
        """Whether the logits are being computed."""
        if graph.replay is not None:
            graph.replay()
            return True
        try:
            if graph.is_warm:
                graph.replay = self._capture.capture(graph.work)
            else:
                self._capture.warm_up(graph.work)
        except Exception as error:
            self._turn_off(error)
            return False
        if graph.replay is not None:
            graph.replay()
        graph.is_warm = True
        return True

    def _turn_off(self, error: Exception) -> None:
        self._is_off = True
        self._drop_graphs()
        self._logits = self._slot_entries = None
        logger.warning(
            "CUDA graphs are off from now on, and every step runs eager: %s: %s",
            type(error).__name__,
            error,
            exc_info=error,
        )

    def _drop_graphs(self) -> None:
        if self._graphs:
            self._capture.forget()
        self._graphs.clear()


def _decodes_only(step: Step) -> bool:
    num_logits = len(step.logits_rows)
    if step.num_prompt_rows or step.keeps or num_logits != step.num_rows:
        return False
    return bool((step.draws.sources < num_logits).all())
