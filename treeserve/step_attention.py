"""One step's attention, as the model calls it."""

from dataclasses import dataclass

from torch import Tensor

from treeserve.attention.backend import AttentionBackend
from treeserve.batch import Batch


@dataclass(frozen=True, slots=True, eq=False)
class StepAttention:
    """A backend and the batch that it attends over."""

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
