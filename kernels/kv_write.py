"""The KV write kernel: each row's K and V go to the row's slot."""

import triton
import triton.language as tl
from torch import Tensor

from treeserve.kernels import checks

BLOCK = 1024
"""Elements of one program."""


def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, write_slots: Tensor) -> None:
    """Store each row's K and V in its slot, in place; rows with a negative slot write nothing.

    Args:
        k, v: [num_rows, num_kv_heads, head_dim] in the caches' dtype, last stride 1
        k_cache, v_cache: [num_slots, num_kv_heads, head_dim], contiguous
        write_slots: [num_rows] int32

    Raises:
        TypeError, ValueError: An argument is not as said; nothing has been launched.
    """
    num_rows, num_kv_heads, head_dim = k.shape
    num_slots = k_cache.shape[0]
    checks.check_dtype("k", k, *checks.FLOAT_DTYPES)
    checks.check_shape("v", v, k.shape)
    checks.check_dtype("v", v, k.dtype)
    for name, cache in {"k_cache": k_cache, "v_cache": v_cache}.items():
        checks.check_shape(name, cache, (num_slots, num_kv_heads, head_dim))
        checks.check_dtype(name, cache, k.dtype)
    checks.check_device(k.device, v=v, k_cache=k_cache, v_cache=v_cache)
    checks.check_dense_last_dim(k=k, v=v)
    checks.check_contiguous(k_cache=k_cache, v_cache=v_cache)
    checks.check_index("write_slots", write_slots, num_rows, k.device)
    if num_rows == 0:
        return
    width = num_kv_heads * head_dim
    grid = (num_rows, triton.cdiv(width, BLOCK))
    checks.check_grid("num_kv_heads * head_dim / 1024", grid[1])
    write_kv_kernel[grid](
        k,
        v,
        k_cache,
        v_cache,
        write_slots,
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        width,
        HEAD_DIM=head_dim,
        BLOCK=BLOCK,
        num_warps=4,
        enable_fp_fusion=True,
    )


@triton.jit  # type: ignore[untyped-decorator]
def write_kv_kernel(
    p_k: tl.tensor,
    p_v: tl.tensor,
    p_k_cache: tl.tensor,
    p_v_cache: tl.tensor,
    p_write_slots: tl.tensor,
    k_row_stride: tl.tensor,
    k_head_stride: tl.tensor,
    v_row_stride: tl.tensor,
    v_head_stride: tl.tensor,
    width: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: BLOCK elements of one row's K and V. Grid: (num_rows, blocks of a row)."""
    i_row = tl.program_id(0)
    i_block = tl.program_id(1)
    slot = tl.load(p_write_slots + i_row).to(tl.int64)
    if slot < 0:
        return
    o_element = i_block * BLOCK + tl.arange(0, BLOCK)
    m_element = o_element < width
    o_head = (o_element // HEAD_DIM).to(tl.int64)
    o_dim = o_element % HEAD_DIM
    i_row = i_row.to(tl.int64)
    b_k = tl.load(p_k + i_row * k_row_stride + o_head * k_head_stride + o_dim, mask=m_element)
    b_v = tl.load(p_v + i_row * v_row_stride + o_head * v_head_stride + o_dim, mask=m_element)
    tl.store(p_k_cache + slot * width + o_element, b_k, mask=m_element)
    tl.store(p_v_cache + slot * width + o_element, b_v, mask=m_element)
