"""The merge kernel: each row's states become its output, in the order that the plan fixed."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from treeserve.kernels import checks


def merge_states(
    o: Tensor,
    lse: Tensor,
    row_states: Tensor,
    row_state_starts: Tensor,
    sinks: Tensor | None,
    out: Tensor,
) -> None:
    """Merge the states of each row.

    Args:
        o: [num_states, num_heads, head_dim] float32, contiguous
        lse: [num_states, num_heads] float32, contiguous; natural log, -inf for an empty state
        row_states: [num_states] int32, the states of each row, row after row
        row_state_starts: [num_rows + 1] int32
        sinks: [num_heads] float, contiguous: a logit per head that joins each row's denominator
            once. None: none.
        out: [num_rows, num_heads, head_dim] float16, bfloat16 or float32, contiguous: written; 0
            where every state is empty

    Raises:
        TypeError, ValueError: An argument is not as said; nothing has been launched.
    """
    num_states, num_heads, head_dim = o.shape
    num_rows = out.shape[0]
    checks.check_shape("lse", lse, (num_states, num_heads))
    checks.check_shape("out", out, (num_rows, num_heads, head_dim))
    checks.check_dtype("o", o, torch.float32)
    checks.check_dtype("lse", lse, torch.float32)
    checks.check_dtype("out", out, *checks.FLOAT_DTYPES)
    checks.check_device(o.device, lse=lse, out=out)
    checks.check_contiguous(o=o, lse=lse, out=out)
    checks.check_index("row_states", row_states, num_states, o.device)
    checks.check_index("row_state_starts", row_state_starts, num_rows + 1, o.device)
    if sinks is not None:
        checks.check_shape("sinks", sinks, (num_heads,))
        checks.check_dtype("sinks", sinks, *checks.FLOAT_DTYPES)
        checks.check_device(o.device, sinks=sinks)
        checks.check_contiguous(sinks=sinks)
    checks.check_grid("num_heads", num_heads)
    if num_rows == 0:
        return
    merge_states_kernel[(num_rows, num_heads)](
        o,
        lse,
        row_states,
        row_state_starts,
        lse if sinks is None else sinks,
        out,
        num_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(head_dim),
        HAS_SINKS=sinks is not None,
        num_warps=1,
        enable_fp_fusion=True,
    )


@triton.jit(do_not_specialize=["num_heads"])  # type: ignore[untyped-decorator]
def merge_states_kernel(
    p_o: tl.tensor,
    p_lse: tl.tensor,
    p_row_states: tl.tensor,
    p_row_state_starts: tl.tensor,
    p_sinks: tl.tensor,
    p_out: tl.tensor,
    num_heads: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_SINKS: tl.constexpr,
) -> None:
    """One program: one row, one head. Grid: (num_rows, num_heads)."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    i_row = tl.program_id(0)
    i_head = tl.program_id(1)
    start = tl.load(p_row_state_starts + i_row)
    end = tl.load(p_row_state_starts + i_row + 1)

    maximum = tl.full([], float("-inf"), dtype=tl.float32)
    if HAS_SINKS:
        maximum = tl.load(p_sinks + i_head).to(tl.float32)
    for i_state in range(start, end):
        state = tl.load(p_row_states + i_state).to(tl.int64)
        maximum = tl.maximum(maximum, tl.load(p_lse + state * num_heads + i_head))
    # Every state empty: -inf - (-inf) is NaN.
    maximum = tl.where(maximum == float("-inf"), 0.0, maximum)

    denominator = tl.zeros([], dtype=tl.float32)
    if HAS_SINKS:
        denominator = tl.exp2((tl.load(p_sinks + i_head).to(tl.float32) - maximum) * LOG2_E)
    o_dim = tl.arange(0, BLOCK_D)
    m_dim = o_dim < HEAD_DIM
    b_out = tl.zeros([BLOCK_D], dtype=tl.float32)
    for i_state in range(start, end):
        state = tl.load(p_row_states + i_state).to(tl.int64)
        o_state = state * num_heads + i_head
        weight = tl.exp2((tl.load(p_lse + o_state) - maximum) * LOG2_E)
        b_out += weight * tl.load(p_o + o_state * HEAD_DIM + o_dim, mask=m_dim, other=0.0)
        denominator += weight
    b_out = b_out / tl.where(denominator == 0.0, 1.0, denominator)
    o_out = (i_row.to(tl.int64) * num_heads + i_head) * HEAD_DIM + o_dim
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=m_dim)
