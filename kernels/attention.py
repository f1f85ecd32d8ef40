"""The attention kernel: the states of every (row, item) pair of a work list in one launch."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from treeserve.kernels import checks
from treeserve.kernels.work_list import WorkList

HEAD_DIMS = (16, 32, 64, 80, 96, 128, 256)
ROWS_PER_TILE = 32
"""Of the work lists that the tilings are made for; any other number is right too."""
NO_WINDOW = 1 << 30
"""Wider than any context, and small enough that positions minus it are int32."""


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """How one launch is tiled."""

    block_m: int
    """(row, query head of the group) pairs of one program"""
    block_n: int
    """KV tokens of one round"""
    num_warps: int
    num_stages: int


def attention_config(head_dim: int, dtype: torch.dtype, pairs_per_tile: int) -> AttentionConfig:
    """The tiling for a head size, a dtype, and a work list's rows per tile times the group."""
    block_d = block_of(head_dim)
    if dtype == torch.float32:
        config = _FLOAT32_CONFIGS[max(block_d, 64)]
    else:
        config = _FLOAT16_CONFIGS[max(block_d, 64)]
    block_m = min(config.block_m, block_of(pairs_per_tile))
    return AttentionConfig(block_m, config.block_n, config.num_warps, config.num_stages)


def block_of(size: int) -> int:
    """The power of two that holds `size`, and at least 16, as tl.dot asks for."""
    return max(16, int(triton.next_power_of_2(size)))


_FLOAT16_CONFIGS = {
    64: AttentionConfig(block_m=64, block_n=32, num_warps=4, num_stages=3),
    128: AttentionConfig(block_m=64, block_n=32, num_warps=4, num_stages=3),
    256: AttentionConfig(block_m=64, block_n=32, num_warps=8, num_stages=2),
}
_FLOAT32_CONFIGS = {
    64: AttentionConfig(block_m=32, block_n=32, num_warps=4, num_stages=2),
    128: AttentionConfig(block_m=32, block_n=32, num_warps=8, num_stages=2),
    256: AttentionConfig(block_m=16, block_n=32, num_warps=8, num_stages=2),
}


def attention_states(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    o: Tensor,
    lse: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> None:
    """Write the attention state of every (row, item) pair of the work list.

    Args:
        q: [num_rows, num_heads, head_dim], float16, bfloat16 or float32, last stride 1
        k_cache: [num_slots, num_kv_heads, head_dim] in q's dtype, last stride 1
        v_cache: as k_cache
        work: On q's device.
        o: [num_states, num_heads, head_dim] float32, contiguous: written; normalised, 0 where the
            row sees nothing
        lse: [num_states, num_heads] float32, contiguous: written; natural log, -inf where the row
            sees nothing
        scaling: Factor of the logits.
        window: A row sees the last `window` positions, its own among them. None: all.
        softcap: Logits become softcap * tanh(logits / softcap). None: as they are.

    Raises:
        TypeError, ValueError: An argument is not as said; nothing has been launched.
    """
    num_rows, num_heads, head_dim = q.shape
    num_slots, num_kv_heads, _ = k_cache.shape
    checks.check_dtype("q", q, *checks.FLOAT_DTYPES)
    checks.check_device(q.device, k_cache=k_cache, v_cache=v_cache, o=o, lse=lse)
    checks.check_dense_last_dim(q=q, k_cache=k_cache, v_cache=v_cache)
    for name, cache in {"k_cache": k_cache, "v_cache": v_cache}.items():
        checks.check_shape(name, cache, (num_slots, num_kv_heads, head_dim))
        checks.check_dtype(name, cache, q.dtype)
    checks.check_work(work, num_rows, q.device)
    checks.check_shape("o", o, (work.num_states, num_heads, head_dim))
    checks.check_shape("lse", lse, (work.num_states, num_heads))
    checks.check_dtype("o", o, torch.float32)
    checks.check_dtype("lse", lse, torch.float32)
    checks.check_contiguous(o=o, lse=lse)
    _check_options(head_dim, num_heads, num_kv_heads, window, softcap)
    if work.num_tiles == 0:
        return
    group = num_heads // num_kv_heads
    pairs_per_tile = work.rows_per_tile * group
    config = attention_config(head_dim, q.dtype, pairs_per_tile)
    grid = (work.num_tiles, num_kv_heads, triton.cdiv(pairs_per_tile, config.block_m))
    checks.check_grid("num_kv_heads", grid[1])
    checks.check_grid("rows_per_tile * group", grid[2])
    attention_states_kernel[grid](
        q,
        k_cache,
        v_cache,
        o,
        lse,
        work.positions,
        work.item_rows,
        work.item_row_starts,
        work.item_slots,
        work.item_slot_starts,
        work.item_slot_ends,
        work.item_start_positions,
        work.tile_items,
        work.tile_row_offsets,
        q.stride(0),
        q.stride(1),
        k_cache.stride(0),
        k_cache.stride(1),
        v_cache.stride(0),
        v_cache.stride(1),
        float(scaling),
        float(softcap or 0.0),
        min(window or NO_WINDOW, NO_WINDOW),
        work.rows_per_tile,
        group,
        num_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=block_of(head_dim),
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        HAS_SOFTCAP=softcap is not None,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        enable_fp_fusion=True,
    )


def _check_options(
    head_dim: int, num_heads: int, num_kv_heads: int, window: int | None, softcap: float | None
) -> None:
    if head_dim not in HEAD_DIMS:
        sizes = ", ".join(map(str, HEAD_DIMS))
        raise ValueError(f"head_dim: {head_dim} is not one of {sizes}")
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads: {num_heads} is not a multiple of {num_kv_heads} KV heads")
    if window is not None and window < 1:
        raise ValueError(f"window: {window}, expected at least 1")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap: {softcap}, expected more than 0")


@triton.jit(do_not_specialize=["window", "rows_per_tile", "group", "num_heads"])  # type: ignore[untyped-decorator]
def attention_states_kernel(
    p_q: tl.tensor,
    p_k: tl.tensor,
    p_v: tl.tensor,
    p_o: tl.tensor,
    p_lse: tl.tensor,
    p_positions: tl.tensor,
    p_item_rows: tl.tensor,
    p_item_row_starts: tl.tensor,
    p_item_slots: tl.tensor,
    p_item_slot_starts: tl.tensor,
    p_item_slot_ends: tl.tensor,
    p_item_start_positions: tl.tensor,
    p_tile_items: tl.tensor,
    p_tile_row_offsets: tl.tensor,
    q_row_stride: tl.tensor,
    q_head_stride: tl.tensor,
    k_slot_stride: tl.tensor,
    k_head_stride: tl.tensor,
    v_slot_stride: tl.tensor,
    v_head_stride: tl.tensor,
    scaling: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    rows_per_tile: tl.tensor,
    group: tl.tensor,
    num_heads: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
) -> None:
    """One program: BLOCK_M (row, query head of the group) pairs of one tile, one KV head.

    Grid: (num_tiles, num_kv_heads, blocks of pairs in a tile).
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    LN_2: tl.constexpr = 0.6931471805599453
    # float32 in three TF32 products: as exact, but on the tensor cores and in fewer registers.
    PRECISION: tl.constexpr = "tf32x3"
    i_tile = tl.program_id(0)
    i_kv_head = tl.program_id(1)
    i_block = tl.program_id(2)

    i_item = tl.load(p_tile_items + i_tile)
    first_state = tl.load(p_item_row_starts + i_item) + tl.load(p_tile_row_offsets + i_tile)
    end_state = tl.load(p_item_row_starts + i_item + 1)
    end_state = tl.minimum(end_state, first_state + rows_per_tile)
    if first_state + (i_block * BLOCK_M) // group >= end_state:
        return

    o_pair = i_block * BLOCK_M + tl.arange(0, BLOCK_M)
    o_state = first_state + o_pair // group
    o_head = i_kv_head * group + o_pair % group
    m_pair = o_state < end_state
    o_dim = tl.arange(0, BLOCK_D)
    m_dim = o_dim < HEAD_DIM
    b_row = tl.load(p_item_rows + o_state, mask=m_pair, other=0)
    b_position = tl.load(p_positions + b_row, mask=m_pair, other=0)
    o_q = b_row.to(tl.int64) * q_row_stride + o_head.to(tl.int64) * q_head_stride
    b_q = tl.load(
        p_q + o_q[:, None] + o_dim[None, :], mask=m_pair[:, None] & m_dim[None, :], other=0.0
    )

    # Only the tokens that some row of this program sees, counted from the item's first.
    start_position = tl.load(p_item_start_positions + i_item)
    first_slot = tl.load(p_item_slot_starts + i_item)
    num_tokens = tl.load(p_item_slot_ends + i_item) - first_slot
    highest = tl.max(tl.where(m_pair, b_position, -1), axis=0)
    lowest = tl.min(tl.where(m_pair, b_position, 2147483647), axis=0)
    end = tl.minimum(num_tokens, highest + 1 - start_position)
    start = tl.maximum(0, lowest - window + 1 - start_position)

    b_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    b_o = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    for i_token in range(start, end, BLOCK_N):
        o_token = i_token + tl.arange(0, BLOCK_N)
        m_token = o_token < end
        b_slot = tl.load(p_item_slots + first_slot + o_token, mask=m_token, other=0).to(tl.int64)
        o_k = b_slot * k_slot_stride + i_kv_head.to(tl.int64) * k_head_stride
        b_k = tl.load(
            p_k + o_k[None, :] + o_dim[:, None], mask=m_token[None, :] & m_dim[:, None], other=0.0
        )
        # Logits in base 2: exp2 is the hardware's own.
        b_s = tl.dot(b_q, b_k, input_precision=PRECISION) * scaling
        if HAS_SOFTCAP:
            # tanh x = 1 - 2 / (e^2x + 1), which is 1 long before e^2x overflows.
            b_s = tl.minimum(b_s * (2.0 * LOG2_E / softcap), 64.0)
            b_s = softcap * (1.0 - 2.0 / (tl.exp2(b_s) + 1.0))
        b_s = b_s * LOG2_E
        b_kv_position = start_position + o_token
        m_visible = m_token[None, :] & (b_kv_position[None, :] <= b_position[:, None])
        m_visible &= b_kv_position[None, :] > b_position[:, None] - window
        b_s = tl.where(m_visible, b_s, float("-inf"))

        b_new_max = tl.maximum(b_max, tl.max(b_s, axis=1))
        # A row that has seen nothing so far: -inf - (-inf) is NaN.
        b_base = tl.where(b_new_max == float("-inf"), 0.0, b_new_max)
        b_p = tl.exp2(b_s - b_base[:, None])
        b_scale = tl.exp2(b_max - b_base)
        b_sum = b_sum * b_scale + tl.sum(b_p, axis=1)
        o_v = b_slot * v_slot_stride + i_kv_head.to(tl.int64) * v_head_stride
        b_v = tl.load(
            p_v + o_v[:, None] + o_dim[None, :], mask=m_token[:, None] & m_dim[None, :], other=0.0
        )
        b_o = b_o * b_scale[:, None]
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o, input_precision=PRECISION)
        b_max = b_new_max

    m_empty = b_sum == 0.0
    b_o = b_o / tl.where(m_empty, 1.0, b_sum)[:, None]
    b_lse = (b_max + tl.log2(tl.where(m_empty, 1.0, b_sum))) * LN_2
    b_lse = tl.where(m_empty, float("-inf"), b_lse)
    o_out = o_state.to(tl.int64) * num_heads + o_head
    tl.store(
        p_o + o_out[:, None] * HEAD_DIM + o_dim[None, :],
        b_o,
        mask=m_pair[:, None] & m_dim[None, :],
    )
    tl.store(p_lse + o_out, b_lse, mask=m_pair)
