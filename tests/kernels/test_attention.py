"""The attention kernel against the float64 reference, under the interpreter."""

import dataclasses
import functools
import math

import pytest
import torch
from attention.plans import Item
from attention.work_lists import Case, in_float64, make_case, scattered

from treeserve.kernels import reference
from treeserve.kernels.attention import attention_states
from treeserve.kernels.attention_config import HEAD_DIMS, attention_config, max_pairs
from treeserve.kernels.tiles import NUM_SHAPES, rows_of_shapes

SCALING = 0.25
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}


@dataclasses.dataclass(frozen=True)
class Written:
    """What the kernel wrote, NaN wherever it did not."""

    o: torch.Tensor
    lse: torch.Tensor
    out: torch.Tensor


def run_kernel(case: Case, **options) -> Written:
    shape = (case.work.num_stored_states, *case.q.shape[1:])
    o, lse = torch.full(shape, torch.nan), torch.full(shape[:-1], torch.nan)
    out = torch.full(case.q.shape, torch.nan, dtype=case.q.dtype)
    attention_states(
        case.q, case.k_cache, case.v_cache, case.work, o, lse, out, scaling=SCALING, **options
    )
    return Written(o, lse, out)


def run_reference(
    case: Case, *, sinks=None, num_programs=None, counters=None, **options
) -> Written:
    exact = in_float64(case)
    o, lse = reference.attention_states(
        exact.q, exact.k_cache, exact.v_cache, exact.work, scaling=SCALING, **options
    )
    starts = case.work.row_state_starts
    return Written(o, lse, reference.merge_states(o, lse, case.work.row_states, starts, sinks))


def rows_with_one_state(case: Case) -> torch.Tensor:
    return case.work.row_state_starts.diff() == 1


def check(case: Case, **options) -> Written:
    """Rows with one state have their output, all others their states, and nothing else is there."""
    written, expected = run_kernel(case, **options), run_reference(case, **options)
    tolerance = TOLERANCE[case.q.dtype]
    close = functools.partial(torch.testing.assert_close, atol=tolerance, rtol=tolerance)
    one = rows_with_one_state(case)
    close(written.out[one].double(), expected.out[one])
    assert written.out[~one].isnan().all()
    if case.work.needs_merge:
        several = ~one[case.work.item_rows.long()]
        close(written.o[several].double(), expected.o[several])
        close(written.lse[several].double(), expected.lse[several])
        assert written.o[~several].isnan().all()
        assert written.lse[~several].isnan().all()
    return written


def with_empty_item(items: list[Item], num_rows: int) -> list[Item]:
    """Another state for every row, so that the states are written and not the output alone."""
    return [*items, Item(list(range(num_rows)), [], 0)]


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


@pytest.mark.parametrize("shape_rows", [(0, 1, 2, 3), (1, 5, 21, 42), (1, 16, 64, 128)])
def test_items_with_more_rows_than_a_tile_and_tiles_cut_for_another_group(shape_rows):
    rows = list(range(70 if shape_rows[-1] > 3 else 10))
    items = [Item(rows, scattered(0, len(rows)), 0), Item([0, 3], scattered(200, 9), 0)]
    check(make_case(items, rows, group=3, head_dim=16, shape_rows=shape_rows))


@pytest.mark.parametrize("group", [1, 4])
def test_every_shape_of_tiles_in_one_launch(group):
    """Wide, medium, small and single-row items; the rows of the widest have states elsewhere."""
    sizes, items, first = [129, 40, 5, 1], [], 0
    for size in sizes:
        items.append(Item(list(range(first, first + size)), scattered(200 * len(items), 40), 0))
        first += size
    items.append(Item([0, 50, 128, 130], scattered(900, 9), 40))
    case = make_case(items, [60] * first, group=group, num_kv_heads=1, head_dim=16)
    assert case.work.shape_starts.diff().tolist()[group > 1 :].count(0) <= 1
    check(case)


@pytest.mark.parametrize("num_programs", [1, 3, 1000])
def test_any_number_of_programs_gives_the_same(num_programs):
    items = [Item([0, 1, 2], scattered(0, 20), 0), Item([1], scattered(60, 9), 20)]
    case = make_case(items, [19, 28, 10], group=2, head_dim=16)
    expected, written = run_kernel(case), run_kernel(case, num_programs=num_programs)
    for name in ("o", "lse", "out"):
        torch.testing.assert_close(
            getattr(written, name), getattr(expected, name), atol=0, rtol=0, equal_nan=True
        )


def test_tiles_beyond_those_in_use_are_not_looked_at():
    """As in a launch that a CUDA graph has captured for more."""
    case = make_case([Item([0, 1], scattered(0, 20), 0)], [19, 10], group=2, head_dim=16)
    beyond = torch.full((5,), 1 << 30, dtype=torch.int32)
    lists = ("tile_items", "tile_state_starts", "tile_state_ends", "tile_kinds")
    padded = {name: torch.cat([getattr(case.work, name), beyond]) for name in lists}
    check(_with_work(case, **padded, widest_shape=NUM_SHAPES - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sinks_join_the_outputs_of_rows_with_one_state(dtype):
    items = [Item([0, 1, 2, 3], scattered(0, 20), 0), Item([2], scattered(50, 9), 20)]
    case = make_case(items, [19, 5, 28, -1], group=2, head_dim=16, dtype=dtype)
    written = check(case, sinks=torch.tensor([0.5, -1.0, -torch.inf, 30.0], dtype=dtype))
    assert (written.out[3] == 0).all(), "a row that sees nothing"


def test_empty_and_one_token_items():
    items = [
        Item([0, 1], [], 0),
        Item([0, 1, 2], [3], 0),
        Item([], [5, 6], 0),
        Item([2], scattered(8, 4), 1),
        Item([3], [], 0),
    ]
    written = check(make_case(items, [4, 0, 4, 9], group=2, head_dim=16))
    assert (written.o[:2] == 0).all()
    assert (written.lse[:2] == -torch.inf).all()
    assert (written.out[3] == 0).all()


def test_no_items():
    written = run_kernel(make_case([], [3, 4]))
    assert written.o.numel() == written.lse.numel() == 0
    assert written.out.isnan().all()


def test_rows_that_are_not_neighbours():
    items = [Item([0, 2, 5], scattered(0, 33), 0), Item([4, 1, 3], scattered(100, 20), 0)]
    check(make_case(items, [40, 19, 32, 25, 7, 60], group=2, head_dim=32))


def test_row_that_sees_nothing_among_rows_that_do():
    items = with_empty_item([Item([0, 1], scattered(0, 70), 10)], 2)
    written = check(make_case(items, [5, 60], head_dim=16))
    assert (written.lse[0] == -torch.inf).all()


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
    items = with_empty_item([Item([0, 1], scattered(0, 50), 0)], 2)
    case = make_case(items, [49, 30], head_dim=16)
    huge = dataclasses.replace(case, q=case.q * 1e3)
    written, expected = run_kernel(huge), run_reference(huge)
    torch.testing.assert_close(written.lse.double(), expected.lse, atol=0, rtol=1e-5)
    torch.testing.assert_close(written.o.double(), expected.o, atol=1e-2, rtol=1e-3)


def test_the_same_tokens_twice_add_ln_2():
    slots = scattered(0, 20)
    case = make_case([Item([0], slots, 0), Item([0], slots + slots, 0)], [60], head_dim=16)
    for written in (run_kernel(case), run_reference(case)):
        torch.testing.assert_close(written.lse[1], written.lse[0] + math.log(2))
        torch.testing.assert_close(written.o[1], written.o[0], atol=1e-6, rtol=1e-6)


def test_queries_and_caches_may_be_strided():
    case = make_case([Item([0, 1, 2], scattered(0, 40), 0)], [39, 30, 5], group=2, head_dim=32)
    by_head = case.q.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.full((*case.k_cache.shape[:2], 64), torch.nan)
    wide[..., :32], wide[..., 32:] = case.k_cache, case.v_cache
    check(dataclasses.replace(case, q=by_head, k_cache=wide[..., :32], v_cache=wide[..., 32:]))


def test_every_head_size_has_a_tiling_for_every_shape():
    for head_dim in HEAD_DIMS:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            most = max_pairs(head_dim, dtype)
            assert most in (16, 32, 64, 128)
            assert rows_of_shapes(1, most)[-1] == most
            for shape in range(NUM_SHAPES):
                assert attention_config(head_dim, dtype, shape).num_warps in (4, 8)


@pytest.mark.parametrize("num_programs", [1, 7, 60])
def test_launches_share_counters_and_leave_them_at_zero(num_programs):
    """More units than any fixed share of them, and fewer; each launch finds what the last left."""
    case = make_case(
        [Item([row], scattered(0, 5), 0) for row in range(30)],
        [4] * 30,
        head_dim=16,
        num_kv_heads=1,
    )
    counters = torch.zeros(2, dtype=torch.int32)
    first = check(case, num_programs=num_programs, counters=counters)
    assert counters.tolist() == [0, 0]
    second = check(case, num_programs=num_programs, counters=counters)
    assert torch.equal(first.out, second.out)


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
        (lambda c: _with_work(c, shape_rows=(0, 0, 0, 0)), ValueError, "shape_rows"),
        (lambda c: _with_work(c, shape_rows=(1, 16)), ValueError, "shape_rows"),
        (lambda c: _with_work(c, widest_shape=4), ValueError, "widest_shape"),
        (lambda c: _with_work(c, widest_shape=0), ValueError, "widest_shape"),
        (lambda c: _with_work(c, shape_starts=c.work.shape_starts[1:]), ValueError, "shape_starts"),
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
    items = with_empty_item([Item([0, 1], scattered(0, 8), 0)], 2)
    case = make_case(items, [7, 3], head_dim=32)
    o, lse, out = torch.empty(4, 2, 32), torch.empty(4, 2), torch.empty(2, 2, 32)
    sinks = torch.empty(2)

    def attend(o=o, lse=lse, out=out, sinks=sinks, counters=None):
        operands = (case.q, case.k_cache, case.v_cache, case.work)
        attention_states(*operands, o, lse, out, scaling=1.0, sinks=sinks, counters=counters)

    for error, name, wrong in (
        (TypeError, "o", {"o": o.half()}),
        (ValueError, "o", {"o": o[:1]}),
        (ValueError, "o", {"o": torch.empty(4, 32, 2).transpose(1, 2)}),
        (ValueError, "lse", {"lse": lse.t()}),
        (TypeError, "out", {"out": out.half()}),
        (ValueError, "out", {"out": out[:1]}),
        (ValueError, "out", {"out": torch.empty(2, 32, 2).transpose(1, 2)}),
        (TypeError, "counters", {"counters": torch.zeros(2)}),
        (ValueError, "counters", {"counters": torch.zeros(1, dtype=torch.int32)}),
        (TypeError, "sinks", {"sinks": sinks.half()}),
        (ValueError, "sinks", {"sinks": sinks[:1]}),
    ):
        with pytest.raises(error, match=f"^{name}:"):
            attend(**wrong)


@pytest.mark.parametrize("options", [{"window": 0}, {"softcap": 0.0}, {"softcap": -1.0}])
def test_wrong_options_are_refused(options):
    case = make_case([Item([0], scattered(0, 8), 0)], [7], head_dim=32)
    with pytest.raises(ValueError, match=next(iter(options))):
        run_kernel(case, **options)


def test_unknown_head_dim_is_refused():
    case = make_case([Item([0], scattered(0, 8), 0)], [7], head_dim=48)
    with pytest.raises(ValueError, match="head_dim: 48 is not one of 16, 32, 64, 80, 96, 128, 256"):
        run_kernel(case)
