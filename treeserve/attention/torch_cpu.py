"""The torch backend, for CPUs: one fused call per shared group, few for all private tails."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from treeserve.attention.torch_calls import Call, Calls, Merge, Selection, plan_calls, selection
from treeserve.batch import Batch
from treeserve.errors import ConfigError
from treeserve.kernels.work_list import WorkList
from treeserve.kv_cache import KVCache, LayerCache
from treeserve.scheduler.step import NO_SLOT, Step


@dataclass(frozen=True, slots=True, eq=False)
class PreparedStep:
    """What every layer of the step needs, in host memory; calls are planned once per window."""

    step: Step
    written_rows: Selection
    written_slots: Tensor
    """[num_written] int64"""
    _calls: dict[int | None, Calls] = field(default_factory=dict)

    def calls(self, window: int | None) -> Calls:
        """The step's calls for layers of this window."""
        if window not in self._calls:
            self._calls[window] = plan_calls(self.step.plan, self.step.positions, window)
        return self._calls[window]


class TorchBackend:
    """Attention with PyTorch's fused CPU operator, grouped heads folded into rows."""

    def __init__(self, kv_cache: KVCache) -> None:
        if kv_cache.device.type != "cpu":
            raise ConfigError(f'backend: "torch" runs on cpu, not on {kv_cache.device}')
        self._kv_cache = kv_cache
        self._buffers: dict[tuple[int, int], LayerCache] = {}

    @property
    def shape_rows(self) -> None:
        return None

    @property
    def reads_device_slots(self) -> bool:
        return False

    def prepare(self, step: Step, work: WorkList | None) -> PreparedStep:
        written_rows = np.flatnonzero(step.write_slots != NO_SLOT)
        written_slots = step.write_slots[written_rows].astype(np.int64)
        return PreparedStep(step, selection(written_rows), torch.from_numpy(written_slots))

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
        prepared = batch.prepared
        if not isinstance(prepared, PreparedStep):
            raise TypeError("the batch was prepared by another backend")
        cache = self._kv_cache.layer(layer_index)
        cache.k.index_copy_(0, prepared.written_slots, _select(k, prepared.written_rows))
        cache.v.index_copy_(0, prepared.written_slots, _select(v, prepared.written_rows))
        calls = prepared.calls(window)
        dtype = torch.promote_types(q.dtype, torch.float32)
        o = torch.empty(calls.num_states, q.shape[1], q.shape[2], dtype=dtype)
        lse = torch.empty(calls.num_states, q.shape[1], dtype=dtype)
        for call in calls.calls:
            gathered = self._gather(cache, call.slots)
            _run(call, q, gathered, o, lse, scaling=scaling, softcap=softcap)
        return _merged(calls.merge, o, lse, sinks).to(q.dtype)

    def _gather(self, cache: LayerCache, slots: Selection) -> LayerCache:
        """K and V of some slots, [num_slots, num_kv_heads, head_dim]: good until the next call.

        The memory that gathers go to is kept: fresh pages cost more than the gather itself.
        """
        if isinstance(slots, slice):
            return LayerCache(cache.k[slots], cache.v[slots])
        size, num_kv_heads, head_dim = len(slots), *cache.k.shape[1:]
        kept = self._buffers.get((num_kv_heads, head_dim))
        if kept is None or len(kept.k) < size:
            # Made outside inference mode, a tensor can be written both inside and outside of it.
            with torch.inference_mode(mode=False):
                shape = (size, num_kv_heads, head_dim)
                kept = LayerCache(cache.k.new_empty(shape), cache.v.new_empty(shape))
            self._buffers[num_kv_heads, head_dim] = kept
        return LayerCache(
            torch.index_select(cache.k, 0, slots, out=kept.k[:size]),
            torch.index_select(cache.v, 0, slots, out=kept.v[:size]),
        )


def _run(
    call: Call,
    q: Tensor,
    gathered: LayerCache,
    o: Tensor,
    lse: Tensor,
    *,
    scaling: float,
    softcap: float | None,
) -> None:
    """Compute the call's states and put them in their places in o and lse.

    `gathered` holds K and V of the call's slots, in their order.
    """
    num_kv_heads, head_dim = gathered.k.shape[1:]
    group = q.shape[1] // num_kv_heads
    padded = (call.num_items, -1, num_kv_heads, head_dim)
    k = gathered.k.view(padded).transpose(1, 2)
    v = gathered.v.view(padded).transpose(1, 2)
    grouped = (call.num_items, -1, num_kv_heads, group)
    queries = _select(q, call.rows).view(*grouped, head_dim)
    call_o = o[call.states].view(*grouped, head_dim)
    call_lse = lse[call.states].view(grouped)
    if call.num_items == 1 and call.mask is not None:
        # One batch entry per query head of the group: they share the mask of the rows.
        state_o, state_lse = _attention(
            queries[0].permute(2, 1, 0, 3),
            k.expand(group, -1, -1, -1),
            v.expand(group, -1, -1, -1),
            call.mask,
            scaling,
            softcap,
        )
        call_o[0] = state_o.permute(2, 1, 0, 3)
        call_lse[0] = state_lse.permute(2, 1, 0)
    else:
        # Rows times query heads of the group are the rows of one product.
        folded = queries.transpose(1, 2).flatten(2, 3)
        state_o, state_lse = _attention(folded, k, v, call.mask, scaling, softcap)
        unfolded = (call.num_items, num_kv_heads, -1, group)
        call_o.copy_(state_o.reshape(*unfolded, head_dim).transpose(1, 2))
        call_lse.copy_(state_lse.reshape(unfolded).transpose(1, 2))
    if call.blind is not None:
        call_o[0, call.blind] = 0
        call_lse[0, call.blind] = -torch.inf


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """o [batch, heads, rows, dim] and lse [batch, heads, rows] of the same layout of q, k, v."""
    if softcap is not None or q.dtype == torch.float64:
        return _plain_attention(q, k, v, mask, scaling, softcap)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    o, lse = fused(q, k, v, 0.0, False, attn_mask=mask, scale=scaling)
    return o, lse


def _plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The same in plain products: the fused operator knows no soft cap and misreads the mask of
    float64 queries.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    logits = q.to(dtype) @ k.to(dtype).transpose(-1, -2)
    logits *= scaling
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    if mask is not None:
        logits += mask
    lse = torch.logsumexp(logits, dim=-1)
    maximum = lse.masked_fill(lse == -torch.inf, 0)
    weights = logits.sub_(maximum[..., None]).exp_()
    return weights @ v.to(dtype), lse


def _merged(merge: Merge, o: Tensor, lse: Tensor, sinks: Tensor | None) -> Tensor:
    """[num_rows, num_heads, head_dim] from the states o and lse."""
    if not merge.levels:
        return o.new_zeros(merge.num_rows, *o.shape[1:])
    if sinks is None and len(merge.levels) == 1 and merge.level_sizes[0] == merge.num_rows:
        return _select(o, merge.levels[0])
    shape = (merge.num_rows, o.shape[1])
    if sinks is None:
        maximum = lse.new_full(shape, -torch.inf)
    else:
        maximum = sinks.to(lse.dtype).expand(shape).clone()
    for size, level in zip(merge.level_sizes, merge.levels, strict=True):
        torch.maximum(maximum[:size], _select(lse, level), out=maximum[:size])
    maximum.masked_fill_(maximum == -torch.inf, 0)
    denominator = lse.new_zeros(shape)
    if sinks is not None:
        denominator = torch.exp(sinks.to(lse.dtype) - maximum)
    out = o.new_zeros(merge.num_rows, *o.shape[1:])
    for size, level in zip(merge.level_sizes, merge.levels, strict=True):
        weights = torch.exp(_select(lse, level) - maximum[:size])
        denominator[:size] += weights
        out[:size].addcmul_(_select(o, level), weights[..., None])
    out /= denominator.masked_fill_(denominator == 0, 1)[..., None]
    return _select(out, merge.row_order)


def _select(tensor: Tensor, where: Selection) -> Tensor:
    return tensor[where] if isinstance(where, slice) else tensor.index_select(0, where)
