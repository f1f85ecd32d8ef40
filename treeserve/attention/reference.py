"""The reference backend: the slow truth, in float32 or float64."""

from torch import Tensor

from treeserve.batch import Batch
from treeserve.kernels import reference
from treeserve.kernels.tiles import ANY_SHAPE_ROWS
from treeserve.kernels.work_list import WorkList
from treeserve.kv_cache import KVCache
from treeserve.scheduler.step import Step


class ReferenceBackend:
    """Attention item by item, as the definition says."""

    def __init__(self, kv_cache: KVCache) -> None:
        self._kv_cache = kv_cache

    @property
    def shape_rows(self) -> tuple[int, ...]:
        return ANY_SHAPE_ROWS

    @property
    def reads_device_slots(self) -> bool:
        return False

    def prepare(self, step: Step, work: WorkList | None) -> object:
        return None

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer_index: int,
        batch: Batch,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        cache = self._kv_cache.layer(layer_index)
        work = batch.work
        reference.write_kv(k, v, cache.k, cache.v, batch.write_slots)
        o, lse = reference.attention_states(
            q, cache.k, cache.v, work, scaling=scaling, window=window, softcap=softcap
        )
        out = reference.merge_states(o, lse, work.row_states, work.row_state_starts, sinks)
        return out.to(q.dtype)
