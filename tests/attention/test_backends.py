"""One contract for all backends: over any plan they give what dense attention gives each row."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from attention.plans import Item, TreeStep, dense_attention, make_step, tree_step
from attention.stored import read_layer, write_layer

from treeserve.attention import AttentionBackend, make_backend
from treeserve.attention.backend import kv_layout
from treeserve.batch import make_batch
from treeserve.errors import ConfigError
from treeserve.kv_cache import KVCache, LayerCache

SCALING = 0.2
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}


@pytest.fixture(params=["reference", "torch", "cpu", "triton"])
def name(request) -> str:
    if request.param == "cpu":
        request.getfixturevalue("cpu_kernel")
    return request.param


class Layer:
    """One layer's rows and a cache whose unused slots are NaN, over one step."""

    def __init__(
        self,
        name: str,
        tree: TreeStep,
        *,
        group: int = 2,
        num_kv_heads: int = 2,
        head_dim: int = 16,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        if dtype is None:
            dtype = torch.bfloat16 if name == "cpu" else torch.float32
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        self.step = tree.step
        self.num_heads = num_kv_heads * group
        rows = tree.step.num_rows
        self.q = normal(rows, self.num_heads, head_dim)
        self.k = normal(rows, num_kv_heads, head_dim)
        self.v = normal(rows, num_kv_heads, head_dim)
        shapes = [(1, 16), (num_kv_heads, head_dim)]
        self.cache = KVCache(shapes, tree.num_slots, dtype, "cpu", kv_layout(name))
        # What is read in written slots must be what this step writes.
        written = [slot for slot in tree.step.write_slots.tolist() if slot >= 0]
        filled = [torch.full((tree.num_slots, num_kv_heads, head_dim), torch.nan).to(dtype)] * 2
        for index, stored in enumerate(filled):
            filled[index] = stored.clone()
            filled[index][tree.used_slots] = normal(len(tree.used_slots), num_kv_heads, head_dim)
            filled[index][written] = torch.nan
        write_layer(self.cache, 1, *filled)
        self.backend: AttentionBackend = make_backend(name, self.cache, group)
        self.batch = make_batch(tree.step, "cpu", self.backend)

    @property
    def stored(self) -> LayerCache:
        return read_layer(self.cache, 1)

    def attend(self, **options) -> torch.Tensor:
        return self.backend.attend(
            self.q, self.k, self.v, 1, self.batch, scaling=SCALING, **options
        )

    def check(self, **options) -> None:
        out = self.attend(**options)
        expected = dense_attention(self.q, *self.stored, self.step, scaling=SCALING, **options)
        assert out.dtype == self.q.dtype
        assert out.shape == self.q.shape
        tolerance = TOLERANCE[self.q.dtype]
        torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


def tree_for(name: str, seed: int, *, shared: bool = True) -> TreeStep:
    """A random tree; a small one for Triton, whose interpreter takes long for each operation."""
    small = {"max_len": 20, "num_branches": 3, "num_samples": 2} if name == "triton" else {}
    return tree_step(seed, shared=shared, **small)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shared", [True, False])
def test_random_trees(name, seed, shared):
    tree = tree_for(name, seed, shared=shared)
    group = [1, 2, 3, 4, 5, 7, 8, 16][seed]
    layer = Layer(name, tree, group=group, num_kv_heads=[3, 2, 1][seed // 3], seed=seed)
    layer.check()


@pytest.mark.parametrize("seed", range(4))
def test_random_trees_with_every_option(name, seed):
    layer = Layer(name, tree_for(name, 100 + seed), seed=seed)
    sinks = torch.randn(layer.num_heads, generator=torch.Generator().manual_seed(seed))
    layer.check(window=1)
    layer.check(window=20)
    layer.check(softcap=3.0)
    layer.check(sinks=sinks)
    layer.check(window=50, softcap=2.0, sinks=sinks)


@pytest.mark.parametrize("head_dim", [16, 32, 64, 80, 96, 128, 256])
def test_head_dims(name, head_dim):
    tree = tree_step(3, max_len=40, num_branches=2)
    Layer(name, tree, head_dim=head_dim).check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_dtypes(name, dtype):
    if name == "cpu" and dtype != torch.bfloat16:
        with pytest.raises(ConfigError, match="is for bfloat16, not for float16; try torch"):
            Layer(name, tree_step(5), dtype=dtype)
        return
    if name == "triton" and dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter's bfloat16 products are wrong
    Layer(name, tree_step(5), dtype=dtype).check()


def test_float64(name):
    if name == "cpu":
        with pytest.raises(ConfigError, match="is for bfloat16, not for float64; try torch"):
            Layer(name, tree_step(6), dtype=torch.float64)
        return
    layer = Layer(name, tree_step(6), dtype=torch.float64)
    if name == "triton":
        with pytest.raises(TypeError, match="float64"):
            layer.attend()
        return
    out = layer.attend()
    expected = dense_attention(layer.q, *layer.stored, layer.step, scaling=SCALING)
    torch.testing.assert_close(out, expected, atol=1e-13, rtol=1e-13)


def test_a_long_prompt_in_one_step(name):
    """More rows than a call of the torch backend takes, in slots that are one run."""
    length = 100 if name == "triton" else 900
    positions = list(range(20, length))
    slots = list(range(5, 5 + length))
    step = make_step([Item(list(range(len(positions))), slots, 0)], positions, slots[20:])
    layer = Layer(name, TreeStep(step, 5 + length, slots))
    layer.check()
    layer.check(window=64)
    layer.check(window=7, softcap=5.0)


def test_tails_of_very_different_lengths(name):
    lengths = [1, 900, 2, 3, 450, 1, 40, 300, 7, 5, 1]
    items, first = [], 0
    for row, length in enumerate(lengths):
        items.append(Item([row], list(range(first, first + 2 * length, 2)), 0))
        first += 2 * length
    positions = [length - 1 for length in lengths]
    writes = [item.slots[-1] for item in items]
    used = [slot for item in items for slot in item.slots]
    layer = Layer(name, TreeStep(make_step(items, positions, writes), first, used))
    layer.check()
    layer.check(window=30)


def test_rows_that_are_not_neighbours(name):
    """Two samples of one prompt with another prompt's between them."""
    items = [
        Item([0, 2], [3, 9, 4], 0),
        Item([1], [7, 1], 0),
        Item([0], [12], 3),
        Item([2], [14, 2], 3),
    ]
    step = make_step(items, [3, 1, 4], [12, 1, 2])
    Layer(name, TreeStep(step, 16, [1, 2, 3, 4, 7, 9, 12, 14])).check()


def test_rows_that_write_nothing(name):
    """Their K and V are stored already; what they bring is not looked at."""
    items = [Item([0, 1], [2, 0], 0)]
    step = make_step(items, [1, 1], [-1, 0])
    layer = Layer(name, TreeStep(step, 4, [0, 2]))
    layer.k[0], layer.v[0] = torch.nan, torch.nan
    layer.check()
    assert layer.stored.k[[1, 3]].isnan().all()


def test_one_row_with_one_token(name):
    layer = Layer(name, TreeStep(make_step([Item([0], [0], 0)], [0], [0]), 1, [0]))
    layer.check(sinks=torch.zeros(layer.num_heads))
    layer.check()
    out = layer.attend()
    torch.testing.assert_close(out, layer.v.repeat_interleave(2, dim=1))


def test_empty_items_and_items_without_rows(name):
    items = [Item([0, 1], [], 0), Item([], [1], 0), Item([1, 0], [0, 2], 0)]
    step = make_step(items, [1, 1], [-1, 2])
    Layer(name, TreeStep(step, 3, [0, 2])).check()


def test_an_item_wholly_after_a_row_or_outside_its_window(name):
    items = [Item([0, 1], list(range(40)), 0), Item([0, 1], list(range(40, 60)), 40)]
    step = make_step(items, [5, 59], [5, 59])
    layer = Layer(name, TreeStep(step, 60, list(range(60))))
    layer.check()
    layer.check(window=10)


def test_many_states_of_one_row(name):
    items = [Item([0, 1], [2 * i], i) for i in range(40)] + [Item([1], [81], 40)]
    step = make_step(items, [39, 40], [78, 81])
    layer = Layer(name, TreeStep(step, 82, [*range(0, 80, 2), 81]))
    layer.check()
    layer.check(sinks=torch.ones(layer.num_heads))


def test_layers_with_and_without_a_window_share_a_batch(name):
    layer = Layer(name, tree_for(name, 9))
    first = layer.attend(), layer.attend(window=10)
    again = layer.attend(), layer.attend(window=10)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])


def test_queries_and_keys_as_a_model_lays_them_out(name):
    """[1, heads, rows, dim] of the model, seen as [rows, heads, dim]."""
    layer = Layer(name, tree_for(name, 11))
    layer.q, layer.k, layer.v = (
        x.transpose(0, 1).contiguous()[None][0].transpose(0, 1) for x in (layer.q, layer.k, layer.v)
    )
    layer.check()


def test_the_order_of_items_does_not_matter(name):
    tree = tree_for(name, 12)
    layer = Layer(name, tree)
    plan = tree.step.plan
    items = [
        Item(
            plan.item_rows[plan.item_row_starts[i] : plan.item_row_starts[i + 1]].tolist()[::-1],
            plan.item_slots[plan.item_slot_starts[i] : plan.item_slot_ends[i]].tolist(),
            int(plan.item_start_positions[i]),
        )
        for i in reversed(range(plan.num_items))
    ]
    turned = make_step(items, tree.step.positions.tolist(), tree.step.write_slots.tolist())
    other = Layer(name, replace(tree, step=turned))
    tolerance = TOLERANCE[layer.q.dtype]
    torch.testing.assert_close(layer.attend(), other.attend(), atol=tolerance, rtol=tolerance)


def test_unknown_backend_is_refused():
    cache = KVCache([(1, 16)], 4, torch.float32, "cpu")
    with pytest.raises(ConfigError, match="'flash' is not one of reference, torch, cpu, triton"):
        make_backend("flash", cache)


def test_torch_backend_is_for_the_cpu():
    cache = KVCache([(1, 16)], 4, torch.float32, "meta")
    with pytest.raises(ConfigError, match="runs on cpu"):
        make_backend("torch", cache)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("sys.modules['triton'] = None", "needs the triton package"),
        ("", "runs on cuda, not on cpu"),
    ],
)
def test_without_triton_or_cuda_the_others_still_run(before, message):
    program = f"""
import sys
{before}
import torch
from treeserve.attention import make_backend
from treeserve.errors import ConfigError
from treeserve.kv_cache import KVCache
cache = KVCache([(1, 16)], 4, torch.float32, "cpu")
make_backend("torch", cache)
make_backend("reference", cache)
try:
    make_backend("triton", cache)
except ConfigError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert message in printed


def test_batch_of_another_backend_is_refused():
    tree = tree_step(1)
    layer = Layer("torch", tree)
    layer.batch = make_batch(tree.step, "cpu", make_backend("reference", layer.backend._kv_cache))
    with pytest.raises(TypeError, match="another backend"):
        layer.attend()


def test_every_row_is_written_by_its_own_rows(name):
    tree = tree_for(name, 4)
    layer = Layer(name, tree)
    layer.attend()
    slots = tree.step.write_slots.astype(np.int64)
    assert torch.equal(layer.stored.k[slots], layer.k)
    assert torch.equal(layer.stored.v[slots], layer.v)
    unused = sorted(set(range(tree.num_slots)) - set(tree.used_slots))
    assert layer.stored.k[unused].isnan().all()
