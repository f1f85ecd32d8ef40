"""The slow truth that every kernel is held to: attention states, merge and KV write in PyTorch."""

import torch
from torch import Tensor

from treeserve.kernels.work_list import WorkList

NO_SLOT = -1
"""The write slot of a row that writes nothing."""


def attention_states(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The attention state of every (row, item) pair of the work list.

    Args:
        q: [num_rows, num_heads, head_dim]
        k_cache: [num_slots, num_kv_heads, head_dim]; query head h reads KV head
            h // (num_heads // num_kv_heads)
        v_cache: as k_cache
        scaling: Factor of the logits.
        window: A row sees the last `window` positions, its own among them. None: all.
        softcap: Logits become softcap * tanh(logits / softcap). None: as they are.

    Returns:
        o: [num_states, num_heads, head_dim], normalised; 0 where the row sees nothing.
        lse: [num_states, num_heads], natural log; -inf where the row sees nothing.
        Both float32, or float64 if q is.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    num_states = work.num_states
    o = torch.zeros(num_states, q.shape[1], q.shape[2], dtype=dtype, device=q.device)
    lse = torch.full((num_states, q.shape[1]), -torch.inf, dtype=dtype, device=q.device)
    row_starts = work.item_row_starts.tolist()
    slot_starts, slot_ends = work.item_slot_starts.tolist(), work.item_slot_ends.tolist()
    for i_item, start_position in enumerate(work.item_start_positions.tolist()):
        states = slice(row_starts[i_item], row_starts[i_item + 1])
        slots = work.item_slots[slot_starts[i_item] : slot_ends[i_item]].long()
        if len(slots) == 0:
            continue
        rows = work.item_rows[states].long()
        kv_positions = start_position + torch.arange(len(slots), device=q.device)
        visible = _visible(work.positions[rows].long(), kv_positions, window)
        o[states], lse[states] = _dense_state(
            q[rows].to(dtype),
            k_cache[slots].to(dtype),
            v_cache[slots].to(dtype),
            visible,
            scaling=scaling,
            softcap=softcap,
        )
    return o, lse


def merge_states(
    o: Tensor,
    lse: Tensor,
    row_states: Tensor,
    row_state_starts: Tensor,
    sinks: Tensor | None = None,
) -> Tensor:
    """Merge the states of each row.

    Args:
        o: [num_states, num_heads, head_dim]
        lse: [num_states, num_heads], natural log
        row_states: [num_states] int32, the states of each row, row after row
        row_state_starts: [num_rows + 1] int32
        sinks: [num_heads] a logit per head that joins each row's denominator once. None: none.

    Returns:
        [num_rows, num_heads, head_dim] in o's dtype; 0 where every state is empty.
    """
    num_rows = row_state_starts.shape[0] - 1
    out = torch.zeros(num_rows, o.shape[1], o.shape[2], dtype=o.dtype, device=o.device)
    starts = row_state_starts.tolist()
    for i_row in range(num_rows):
        states = row_states[starts[i_row] : starts[i_row + 1]].long()
        logits = lse[states]
        if sinks is not None:
            logits = torch.cat([logits, sinks.to(lse.dtype)[None]])
        if len(logits) == 0:
            continue
        maximum = _finite(logits.amax(dim=0))
        denominator = torch.exp(logits - maximum).sum(dim=0)
        weights = torch.exp(lse[states] - maximum) / denominator.where(denominator > 0, 1)
        out[i_row] = torch.einsum("sh,shd->hd", weights, o[states])
    return out


def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, write_slots: Tensor) -> None:
    """Store each row's K and V in its slot, in place; rows with NO_SLOT write nothing.

    Args:
        k, v: [num_rows, num_kv_heads, head_dim]
        k_cache, v_cache: [num_slots, num_kv_heads, head_dim]
        write_slots: [num_rows] int32
    """
    written = write_slots != NO_SLOT
    slots = write_slots[written].long()
    k_cache[slots] = k[written]
    v_cache[slots] = v[written]


def _visible(row_positions: Tensor, kv_positions: Tensor, window: int | None) -> Tensor:
    """[num_rows, num_tokens] bool: which token each row sees."""
    visible = kv_positions[None] <= row_positions[:, None]
    if window is not None:
        visible &= kv_positions[None] > row_positions[:, None] - window
    return visible


def _dense_state(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, *, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The states of some rows over the same KV: o [rows, heads, dim] and lse [rows, heads]."""
    num_rows, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    grouped = q.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
    logits = torch.einsum("rkgd,nkd->rkgn", grouped, k) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~visible[:, None, None, :], -torch.inf)
    lse = torch.logsumexp(logits, dim=-1)
    weights = torch.exp(logits - _finite(lse)[..., None])
    o = torch.einsum("rkgn,nkd->rkgd", weights, v)
    return o.reshape(num_rows, num_heads, head_dim), lse.reshape(num_rows, num_heads)


def _finite(logarithms: Tensor) -> Tensor:
    """-inf becomes 0, so that a difference with -inf is not NaN."""
    return logarithms.masked_fill(logarithms == -torch.inf, 0)
