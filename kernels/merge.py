"""The merge kernel: each row's states become its output, in the order that the plan fixed."""

import triton
import triton.language as tl
from torch import Tensor

from treeserve.kernels import checks

BLOCK_S = 4
"""States that are read together: most rows have no more."""


def merge_states(
    o: Tensor,
    lse: Tensor,
    row_states: Tensor,
    row_state_starts: Tensor,
    sinks: Tensor | None,
    out: Tensor,
) -> None:
    """Merge the states of each row that has several; a row with one is left as it is.

    The attention kernel has written the output of rows with one state.

    Args:
        o: [num_states, num_heads, head_dim] float32, contiguous
        lse: [num_states, num_heads] float32, contiguous; natural log, -inf for an empty state
        row_states: [num_states] int32, the states of each row, row after row
        row_state_starts: [num_rows + 1] int32
        sinks: [num_heads] in out's dtype, contiguous: a logit per head that joins each row's
            denominator once. None: none.
        out: [num_rows, num_heads, head_dim] float16, bfloat16 or float32, contiguous: every row
            but those with one state is written; 0 where every state is empty or there is none

    Raises:
        TypeError, ValueError: An argument is not as said; nothing has been launched.
    """
    num_states, num_heads, head_dim = o.shape
    num_rows = out.shape[0]
    checks.check_states(o, lse, (num_states, num_heads, head_dim), o.device)
    checks.check_dtype("out", out, *checks.FLOAT_DTYPES)
    checks.check_output(out, (num_rows, num_heads, head_dim), out.dtype, o.device)
    checks.check_index("row_states", row_states, num_states, o.device)
    checks.check_index("row_state_starts", row_state_starts, num_rows + 1, o.device)
    checks.check_sinks(sinks, num_heads, out.dtype, o.device)
    checks.check_grid("num_heads", num_heads)
    if num_rows == 0:
        return
    merge_states_kernel[(num_rows, num_heads)](
        o,
        lse,
        row_states,
        row_state_starts,
        out if sinks is None else sinks,
        out,
        num_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(head_dim),
        BLOCK_S=BLOCK_S,
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
    BLOCK_S: tl.constexpr,
    HAS_SINKS: tl.constexpr,
) -> None:
    """One program: one row, one head. Grid: (num_rows, num_heads)."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    i_row = tl.program_id(0)
    i_head = tl.program_id(1)
    start = tl.load(p_row_state_starts + i_row)
    end = tl.load(p_row_state_starts + i_row + 1)
    if end - start == 1:
        return

    o_dim = tl.arange(0, BLOCK_D)
    m_dim = o_dim < HEAD_DIM
    maximum = tl.full([], float("-inf"), dtype=tl.float32)
    denominator = tl.zeros([], dtype=tl.float32)
    if HAS_SINKS:
        maximum = tl.load(p_sinks + i_head).to(tl.float32)
        denominator = tl.where(maximum == float("-inf"), 0.0, 1.0)
    b_out = tl.zeros([BLOCK_D], dtype=tl.float32)
    for i_state in range(start, end, BLOCK_S):
        o_state = i_state + tl.arange(0, BLOCK_S)
        m_state = o_state < end
        b_state = tl.load(p_row_states + o_state, mask=m_state, other=0).to(tl.int64)
        o_o = b_state * num_heads + i_head
        b_lse = tl.load(p_lse + o_o, mask=m_state, other=float("-inf"))
        b_o = tl.load(
            p_o + o_o[:, None] * HEAD_DIM + o_dim[None, :],
            mask=m_state[:, None] & m_dim[None, :],
            other=0.0,
        )
        new_maximum = tl.maximum(maximum, tl.max(b_lse, axis=0))
        # Every state empty so far: -inf - (-inf) is NaN.
        base = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        b_weight = tl.exp2((b_lse - base) * LOG2_E)
        scale = tl.exp2((maximum - base) * LOG2_E)
        b_out = b_out * scale + tl.sum(b_weight[:, None] * b_o, axis=0)
        denominator = denominator * scale + tl.sum(b_weight, axis=0)
        maximum = new_maximum
    b_out = b_out / tl.where(denominator == 0.0, 1.0, denominator)
    o_out = (i_row.to(tl.int64) * num_heads + i_head) * HEAD_DIM + o_dim
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=m_dim)
