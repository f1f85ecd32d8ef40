"""Attention over a work list in one launch: outputs of rows with one state, others' states."""

import functools

import torch
from torch import Tensor

from treeserve.kernels import checks
from treeserve.kernels.attention_config import (
    HEAD_DIMS,
    attention_config,
    block_of,
    max_pairs,
    min_block_m,
)
from treeserve.kernels.attention_kernel import attention_kernel
from treeserve.kernels.tiles import TILE_PAIRS
from treeserve.kernels.work_list import WorkList

NO_WINDOW = 1 << 30
"""Wider than any context, and small enough that positions minus it are int32."""
NUM_COUNTERS = 2
"""Units of work that were taken in no fixed order, and programs that have ended."""
CPU_MULTIPROCESSORS = 2
"""Of the device that Triton's interpreter is."""


def attention_states(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    o: Tensor,
    lse: Tensor,
    out: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    num_programs: int | None = None,
    counters: Tensor | None = None,
) -> None:
    """Write the output of every row with one state, and the states of rows with several.

    The grid is the device and the number of tiles is read there, so that one launch, captured once,
    works through any work list of the same shapes.

    Args:
        q: [num_rows, num_heads, head_dim], float16, bfloat16 or float32, last stride 1
        k_cache: [num_slots, num_kv_heads, head_dim] in q's dtype, last stride 1
        v_cache: as k_cache
        work: On q's device.
        o: [num_stored_states, num_heads, head_dim] float32, contiguous: the states of rows with
            several are written; normalised, 0 where the row sees nothing
        lse: [num_stored_states, num_heads] float32, contiguous: written likewise; natural log, -inf
            where the row sees nothing
        out: [num_rows, num_heads, head_dim] in q's dtype, contiguous: the rows with one state are
            written; 0 where the row sees nothing
        scaling: Factor of the logits, more than 0.
        window: A row sees the last `window` positions, its own among them. None: all.
        softcap: Logits become softcap * tanh(logits / softcap). None: as they are.
        sinks: [num_heads] in q's dtype, contiguous: a logit per head that joins the denominator of
            the rows that are written to `out`. None: none.
        num_programs: Of the launch. None: as many as find room on the device side by side.
        counters: [2] int32, contiguous, zero: by them programs take the last units of work, and
            when the launch ends they are zero again. Launches that may run side by side need
            counters of their own. None: made and cleared for this launch, which takes another.

    Raises:
        TypeError, ValueError: An argument is not as said; nothing has been launched.
    """
    num_rows, num_heads, head_dim = q.shape
    num_slots, num_kv_heads, _ = k_cache.shape
    checks.check_dtype("q", q, *checks.FLOAT_DTYPES)
    checks.check_device(q.device, k_cache=k_cache, v_cache=v_cache)
    checks.check_dense_last_dim(q=q, k_cache=k_cache, v_cache=v_cache)
    for name, cache in {"k_cache": k_cache, "v_cache": v_cache}.items():
        checks.check_shape(name, cache, (num_slots, num_kv_heads, head_dim))
        checks.check_dtype(name, cache, q.dtype)
    checks.check_work(work, num_rows, q.device)
    checks.check_states(o, lse, (work.num_stored_states, num_heads, head_dim), q.device)
    checks.check_output(out, q.shape, q.dtype, q.device)
    checks.check_sinks(sinks, num_heads, q.dtype, q.device)
    _check_options(head_dim, num_heads, num_kv_heads, scaling, window, softcap)
    group = num_heads // num_kv_heads
    config = attention_config(head_dim, q.dtype, work.widest_shape)
    most = max_pairs(head_dim, q.dtype)
    blocks_per_tile = _blocks_per_tile(work.shape_rows, group, most)
    num_units = work.num_tiles * num_kv_heads * blocks_per_tile
    if num_programs is None:
        num_programs = _num_multiprocessors(q.device) * config.programs_per_multiprocessor
    # A program counts on to one unit after the last.
    checks.check_int32("tiles, for each KV head", num_units + num_programs)
    if num_units == 0:
        return
    if counters is None:
        counters = torch.zeros(NUM_COUNTERS, dtype=torch.int32, device=q.device)
    checks.check_index("counters", counters, NUM_COUNTERS, q.device)
    attention_kernel[(min(num_programs, num_units),)](
        q,
        k_cache,
        v_cache,
        out if sinks is None else sinks,
        out,
        o,
        lse,
        work.positions,
        work.item_rows,
        work.item_slots,
        work.item_slot_starts,
        work.item_slot_ends,
        work.item_start_positions,
        work.row_state_starts,
        work.tile_items,
        work.tile_state_starts,
        work.tile_state_ends,
        work.tile_kinds,
        work.shape_starts,
        counters,
        q.stride(0),
        q.stride(1),
        k_cache.stride(0),
        k_cache.stride(1),
        v_cache.stride(0),
        v_cache.stride(1),
        float(scaling),
        float(softcap or 0.0),
        min(window or NO_WINDOW, NO_WINDOW),
        group,
        num_kv_heads,
        blocks_per_tile,
        int(sinks is not None),
        HEAD_DIM=head_dim,
        BLOCK_D=block_of(head_dim),
        BLOCK_N=config.block_n,
        MIN_BLOCK_M=min_block_m(group),
        MAX_BLOCK_M=most,
        NARROWEST=int(work.shape_rows[0] == 0),
        WIDEST=work.widest_shape,
        HAS_SOFTCAP=softcap is not None,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        enable_fp_fusion=True,
    )


def _check_options(
    head_dim: int,
    num_heads: int,
    num_kv_heads: int,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> None:
    if head_dim not in HEAD_DIMS:
        sizes = ", ".join(map(str, HEAD_DIMS))
        raise ValueError(f"head_dim: {head_dim} is not one of {sizes}")
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads: {num_heads} is not a multiple of {num_kv_heads} KV heads")
    if scaling <= 0:
        raise ValueError(f"scaling: {scaling}, expected more than 0")
    if window is not None and window < 1:
        raise ValueError(f"window: {window}, expected at least 1")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap: {softcap}, expected more than 0")


def _blocks_per_tile(shape_rows: tuple[int, ...], group: int, most: int) -> int:
    """1 where the tiles were cut for this group; else as many as the fullest tile needs."""
    least = min_block_m(group)
    return max(
        -(-rows * group // min(max(pairs, least), most))
        for rows, pairs in zip(shape_rows, TILE_PAIRS, strict=True)
    )


@functools.cache
def _num_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_MULTIPROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
