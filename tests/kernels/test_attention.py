"""The attention kernel against the float64 reference, under the interpreter."""

import dataclasses
import math

import pytest
import torch
from attention.plans import Item
from attention.work_lists import Case, in_float64, make_case, scattered

from treeserve.kernels import reference
from treeserve.kernels.attention import HEAD_DIMS, attention_config, attention_states

SCALING = 0.25
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}


def run_kernel(case: Case, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel's states, into outputs that are NaN wherever it does not write."""
    o = torch.full((case.work.num_states, *case.q.shape[1:]), torch.nan)
    lse = torch.full((case.work.num_states, case.q.shape[1]), torch.nan)
    attention_states(
        case.q, case.k_cache, case.v_cache, case.work, o, lse, scaling=SCALING, **options
    )
    return o, lse


def run_reference(case: Case, **options) -> tuple[torch.Tensor, torch.Tensor]:
    exact = in_float64(case)
    return reference.attention_states(
        exact.q, exact.k_cache, exact.v_cache, exact.work, scaling=SCALING, **options
    )


def check(case: Case, **options) -> None:
    o, lse = run_kernel(case, **options)
    expected_o, expected_lse = run_reference(case, **options)
    tolerance = TOLERANCE[case.q.dtype]
    torch.testing.assert_close(o.double(), expected_o, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.double(), expected_lse, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("head_dim", "group", "length", "dtype"),
    [
        (16, 1, 63, torch.float32),
        (32, 2, 100, torch.float32),
        (64, 1, 1000, torch.float32),
        (64, 4, 63, torch.float16),
        (80, 3, 100, torch.float32),
        (80, 8, 63, torch.float16),
        (96, 5, 100, torch.float32),
        (96, 16, 63, torch.float16),
        (128, 7, 63, torch.float32),
        (128, 16, 100, torch.float32),
        (128, 4, 1000, torch.float16),
        (256, 8, 63, torch.float32),
        (256, 6, 100, torch.float16),
    ],
)
def test_sizes_and_groups(head_dim, group, length, dtype):
    items = [
        Item([0, 1, 2, 3, 4], scattered(0, length), 0),
        Item([1], scattered(2 * length, 17), length),
        Item([3], scattered(2 * length + 40, 1), length),
    ]
    positions = [length - 1, length + 16, length // 2, length, 0]
    check(make_case(items, positions, group=group, head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("group", range(1, 17))
def test_every_group_ratio(group):
    items = [Item([0, 1, 2], scattered(0, 20), 0)]
    check(make_case(items, [19, 10, 25], group=group, num_kv_heads=1, head_dim=16))


@pytest.mark.parametrize("rows_per_tile", [1, 3, 32, 64])
def test_items_with_more_rows_than_a_tile(rows_per_tile):
    rows = list(range(70 if rows_per_tile > 1 else 10))
    items = [Item(rows, scattered(0, len(rows)), 0)]
    check(make_case(items, rows, group=3, head_dim=16, rows_per_tile=rows_per_tile))


def test_empty_and_one_token_items():
    items = [
        Item([0, 1], [], 0),
        Item([0, 1, 2], [3], 0),
        Item([], [5, 6], 0),
        Item([2], scattered(8, 4), 1),
    ]
    case = make_case(items, [4, 0, 4], group=2, head_dim=16)
    check(case)
    o, lse = run_kernel(case)
    assert (o[:2] == 0).all()
    assert (lse[:2] == -torch.inf).all()


def test_no_items():
    case = make_case([], [3, 4])
    o, lse = run_kernel(case)
    assert o.numel() == lse.numel() == 0


def test_rows_that_are_not_neighbours():
    items = [Item([0, 2, 5], scattered(0, 33), 0), Item([4, 1, 3], scattered(100, 20), 0)]
    check(make_case(items, [40, 19, 32, 25, 7, 60], group=2, head_dim=32))


def test_row_that_sees_nothing_among_rows_that_do():
    items = [Item([0, 1], scattered(0, 70), 10)]
    case = make_case(items, [5, 60], head_dim=16)
    check(case)
    _, lse = run_kernel(case)
    assert (lse[0] == -torch.inf).all()


@pytest.mark.parametrize("window", [1, 2, 33, 64, 500, 1 << 40])
def test_windows_partly_and_wholly_outside(window):
    items = [
        Item([0, 1, 2], scattered(0, 100), 0),
        Item([2, 0], scattered(200, 90), 100),
        Item([1], scattered(400, 5), 100),
    ]
    check(make_case(items, [189, 104, 120], group=2, head_dim=16), window=window)


@pytest.mark.parametrize("softcap", [0.5, 30.0])
def test_softcap(softcap):
    items = [Item([0, 1], scattered(0, 63), 0)]
    check(make_case(items, [62, 20], group=2, head_dim=64), softcap=softcap)


def test_softcap_of_huge_logits_is_finite():
    case = make_case([Item([0], scattered(0, 40), 0)], [39], head_dim=16)
    check(dataclasses.replace(case, q=case.q * 1e4), softcap=20.0)


def test_large_lse():
    case = make_case([Item([0, 1], scattered(0, 50), 0)], [49, 30], head_dim=16)
    huge = dataclasses.replace(case, q=case.q * 1e3)
    o, lse = run_kernel(huge)
    expected_o, expected_lse = run_reference(huge)
    torch.testing.assert_close(lse.double(), expected_lse, atol=0, rtol=1e-5)
    torch.testing.assert_close(o.double(), expected_o, atol=1e-2, rtol=1e-3)


def test_the_same_tokens_twice_add_ln_2():
    slots = scattered(0, 20)
    case = make_case([Item([0], slots, 0), Item([0], slots + slots, 0)], [60], head_dim=16)
    for o, lse in (run_kernel(case), run_reference(case)):
        torch.testing.assert_close(lse[1], lse[0] + math.log(2))
        torch.testing.assert_close(o[1], o[0], atol=1e-6, rtol=1e-6)


def test_queries_and_caches_may_be_strided():
    case = make_case([Item([0, 1, 2], scattered(0, 40), 0)], [39, 30, 5], group=2, head_dim=32)
    by_head = case.q.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.full((*case.k_cache.shape[:2], 64), torch.nan)
    wide[..., :32], wide[..., 32:] = case.k_cache, case.v_cache
    check(dataclasses.replace(case, q=by_head, k_cache=wide[..., :32], v_cache=wide[..., 32:]))


def test_every_tiling_is_a_block_of_pairs():
    for head_dim in HEAD_DIMS:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for pairs in (1, 16, 33, 512):
                block_m = attention_config(head_dim, dtype, pairs).block_m
                assert 16 <= block_m <= 128
                assert block_m & (block_m - 1) == 0


def _with_work(case: Case, **lists) -> Case:
    return dataclasses.replace(case, work=dataclasses.replace(case.work, **lists))


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda c: dataclasses.replace(c, q=c.q.double()), TypeError, "q"),
        (lambda c: dataclasses.replace(c, k_cache=c.k_cache.half()), TypeError, "k_cache"),
        (lambda c: dataclasses.replace(c, v_cache=c.v_cache[:-1]), ValueError, "v_cache"),
        (lambda c: dataclasses.replace(c, q=c.q[..., ::2]), ValueError, "q"),
        (lambda c: dataclasses.replace(c, q=c.q[:, :3]), ValueError, "num_heads"),
        (lambda c: dataclasses.replace(c, q=c.q[:1]), ValueError, "positions"),
        (lambda c: _with_work(c, item_rows=c.work.item_rows.long()), TypeError, "item_rows"),
        (lambda c: _with_work(c, positions=c.work.positions[:1]), ValueError, "positions"),
        (
            lambda c: _with_work(c, item_slots=c.work.item_slots.repeat(2)[::2]),
            ValueError,
            "item_slots",
        ),
        (lambda c: _with_work(c, rows_per_tile=0), ValueError, "rows_per_tile"),
        (
            lambda c: _with_work(c, positions=c.work.positions.to("meta")),
            ValueError,
            "positions",
        ),
    ],
)
def test_wrong_arguments_are_refused(break_it, error, message):
    case = make_case([Item([0, 1], scattered(0, 8), 0)], [7, 3], group=2, head_dim=32)
    with pytest.raises(error, match=message):
        run_kernel(break_it(case))


def test_wrong_outputs_are_refused():
    case = make_case([Item([0, 1], scattered(0, 8), 0)], [7, 3], head_dim=32)
    o, lse = torch.empty(2, 2, 32), torch.empty(2, 2)
    operands = (case.q, case.k_cache, case.v_cache, case.work)
    with pytest.raises(TypeError, match="o:"):
        attention_states(*operands, o.half(), lse, scaling=1.0)
    with pytest.raises(ValueError, match="o:"):
        attention_states(*operands, o[:1], lse, scaling=1.0)
    with pytest.raises(ValueError, match="lse:"):
        attention_states(*operands, o, lse.t(), scaling=1.0)
    with pytest.raises(ValueError, match="o:"):
        attention_states(*operands, torch.empty(2, 32, 2).transpose(1, 2), lse, scaling=1.0)


@pytest.mark.parametrize("options", [{"window": 0}, {"softcap": 0.0}, {"softcap": -1.0}])
def test_wrong_options_are_refused(options):
    case = make_case([Item([0], scattered(0, 8), 0)], [7], head_dim=32)
    with pytest.raises(ValueError, match=next(iter(options))):
        run_kernel(case, **options)


def test_unknown_head_dim_is_refused():
    case = make_case([Item([0], scattered(0, 8), 0)], [7], head_dim=48)
    with pytest.raises(ValueError, match="head_dim: 48 is not one of 16, 32, 64, 80, 96, 128, 256"):
        run_kernel(case)
