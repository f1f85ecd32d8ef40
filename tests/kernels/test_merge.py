"""The merge kernel against the float64 reference, under the interpreter."""

import math

import pytest
import torch

from treeserve.kernels import reference
from treeserve.kernels.merge import merge_states

ROWS = [[0], [3, 1], [], [2, 5, 4, 6], [7, 8, 9, 10, 11, 12, 13, 14, 15]]


def make_states(num_heads: int, head_dim: int, rows=ROWS, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    num_states = sum(map(len, rows))
    o = torch.randn(num_states, num_heads, head_dim, generator=generator)
    lse = 5 * torch.randn(num_states, num_heads, generator=generator)
    row_states = torch.tensor([s for row in rows for s in row], dtype=torch.int32)
    starts = torch.tensor([0, *map(len, rows)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return o, lse, row_states, starts


def run_kernel(o, lse, row_states, starts, sinks=None, dtype=torch.float32):
    """The kernel's output, NaN wherever it does not write."""
    out = torch.full((len(starts) - 1, *o.shape[1:]), torch.nan, dtype=dtype)
    merge_states(o, lse, row_states, starts, sinks, out)
    return out


def check(o, lse, row_states, starts, sinks=None):
    out = run_kernel(o, lse, row_states, starts, sinks)
    exact_sinks = None if sinks is None else sinks.double()
    expected = reference.merge_states(o.double(), lse.double(), row_states, starts, exact_sinks)
    merged = starts.diff() != 1
    torch.testing.assert_close(out[merged].double(), expected[merged], atol=1e-5, rtol=1e-5)
    assert out[~merged].isnan().all(), "rows with one state are left as they are"
    return out


@pytest.mark.parametrize("head_dim", [16, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_sizes(head_dim, with_sinks):
    sinks = torch.randn(3, generator=torch.Generator().manual_seed(1)) if with_sinks else None
    out = check(*make_states(3, head_dim), sinks)
    assert (out[2] == 0).all(), "a row without states"


def test_empty_states_weigh_nothing():
    o, lse, row_states, starts = make_states(2, 16)
    o[5], lse[5] = 0, -torch.inf
    o[3], lse[3] = 0, -torch.inf
    o[1], lse[1] = 0, -torch.inf
    out = check(o, lse, row_states, starts)
    assert (out[1] == 0).all(), "a row whose states are all empty"
    assert (check(o, lse, row_states, starts, torch.zeros(2))[1] == 0).all()


def test_large_lse():
    o, lse, row_states, starts = make_states(2, 16)
    check(o, lse + 1e4, row_states, starts)
    check(o, lse - 1e4, row_states, starts)


def test_the_sink_counts_once_whatever_the_number_of_states():
    o = torch.ones(3, 1, 16)
    sinks = torch.zeros(1)
    cut = torch.full((3, 1), math.log(1 / 2))
    two, three = [[0, 1]], [[0, 1, 2]]
    for rows in (two, three):
        states = torch.tensor(rows[0], dtype=torch.int32)
        starts = torch.tensor([0, len(states)], dtype=torch.int32)
        used = len(states)
        out = run_kernel(o[:used], cut[:used], states, starts, sinks)
        total = used / 2
        torch.testing.assert_close(out, torch.full_like(out, total / (total + 1)))


def test_output_in_the_dtype_asked_for():
    states = make_states(2, 64)
    exact = run_kernel(*states)[1:]
    assert torch.equal(run_kernel(*states, dtype=torch.float16)[1:], exact.half())
    # The interpreter cuts bfloat16 off instead of rounding.
    coarse = run_kernel(*states, dtype=torch.bfloat16)[1:]
    torch.testing.assert_close(coarse.float(), exact, atol=0, rtol=2**-7)


def test_the_same_twice():
    states = make_states(2, 64)
    assert torch.equal(run_kernel(*states)[1:], run_kernel(*states)[1:])


def test_two_equal_states_add_ln_2():
    o = torch.ones(3, 1, 16)
    lse = torch.zeros(3, 1)
    lse[2] = math.log(2.0)
    o[2] = -1
    states = torch.tensor([0, 1, 2], dtype=torch.int32)
    out = run_kernel(o, lse, states, torch.tensor([0, 3], dtype=torch.int32))
    assert out.abs().max() < 1e-6, "two of lse 0 balance one of ln 2"


def test_no_rows():
    run_kernel(*make_states(2, 16, rows=[]))


def test_wrong_arguments_are_refused():
    o, lse, row_states, starts = make_states(2, 16)
    with pytest.raises(TypeError, match="o:"):
        run_kernel(o.half(), lse, row_states, starts)
    with pytest.raises(ValueError, match="lse:"):
        run_kernel(o, lse[:, :1], row_states, starts)
    with pytest.raises(ValueError, match="lse:"):
        run_kernel(o, lse.t().contiguous().t(), row_states, starts)
    with pytest.raises(TypeError, match="row_states:"):
        run_kernel(o, lse, row_states.long(), starts)
    with pytest.raises(ValueError, match="row_states:"):
        run_kernel(o, lse, row_states[1:], starts)
    with pytest.raises(ValueError, match="sinks:"):
        run_kernel(o, lse, row_states, starts, torch.zeros(3))
    with pytest.raises(TypeError, match="out:"):
        run_kernel(o, lse, row_states, starts, dtype=torch.float64)
    with pytest.raises(ValueError, match="row_state_starts:"):
        merge_states(o, lse, row_states, starts, None, torch.empty(3, 2, 16))
    with pytest.raises(ValueError, match="sinks: on meta"):
        run_kernel(o, lse, row_states, starts, torch.zeros(2, device="meta"))


def test_grid_limit():
    states = torch.zeros(1, 70_000, 1), torch.zeros(1, 70_000)
    one = torch.zeros(1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    with pytest.raises(ValueError, match="num_heads: 70000, expected at most 65535"):
        run_kernel(*states, *one)
