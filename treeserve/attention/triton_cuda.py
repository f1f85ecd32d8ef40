"""The triton backend, for CUDA: per layer one KV write, one launch of states, one merge."""

import torch
import triton
from torch import Tensor

from treeserve.batch import Batch
from treeserve.errors import ConfigError
from treeserve.kernels.attention import NUM_COUNTERS, attention_states
from treeserve.kernels.attention_config import max_pairs
from treeserve.kernels.kv_write import write_kv
from treeserve.kernels.merge import merge_states
from treeserve.kernels.tiles import rows_of_shapes
from treeserve.kernels.work_list import WorkList
from treeserve.kv_cache import KVCache
from treeserve.scheduler.step import Step


class TritonBackend:
    """Attention with the Triton kernels; under Triton's interpreter it runs on a CPU too."""

    def __init__(self, kv_cache: KVCache, group: int) -> None:
        if kv_cache.device.type != "cuda" and not triton.knobs.runtime.interpret:
            raise ConfigError(f'backend: "triton" runs on cuda, not on {kv_cache.device}')
        self._kv_cache = kv_cache
        # Of every layer: they run one after the other, and each leaves zeros.
        self._counters = torch.zeros(NUM_COUNTERS, dtype=torch.int32, device=kv_cache.device)
        widest_head = max(shape.head_dim for shape in kv_cache.layer_shapes)
        self._shape_rows = rows_of_shapes(group, max_pairs(widest_head, kv_cache.dtype))

    @property
    def shape_rows(self) -> tuple[int, ...]:
        return self._shape_rows

    @property
    def reads_device_slots(self) -> bool:
        return True

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
        num_rows, num_heads, head_dim = q.shape
        write_kv(k, v, cache.k, cache.v, batch.write_slots)
        out = q.new_empty(num_rows, num_heads, head_dim)
        o = q.new_empty(work.num_stored_states, num_heads, head_dim, dtype=torch.float32)
        lse = q.new_empty(work.num_stored_states, num_heads, dtype=torch.float32)
        attention_states(
            q,
            cache.k,
            cache.v,
            work,
            o,
            lse,
            out,
            scaling=scaling,
            window=window,
            softcap=softcap,
            sinks=sinks,
            counters=self._counters,
        )
        if work.needs_merge:
            merge_states(o, lse, work.row_states, work.row_state_starts, sinks, out)
        return out
