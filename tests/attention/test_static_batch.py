"""One captured launch works through any step of its bucket, with the bits of an eager one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from attention.plans import Item, TreeStep, make_step, tree_step
from attention.replay import NOWHERE, ReplayCapture, poison

from treeserve.attention import make_backend
from treeserve.batch import PlanCutter, make_batch
from treeserve.device_slots import DeviceSlots
from treeserve.kv_cache import KVCache
from treeserve.static_batch import Bucket, StaticBatch, padded_rows

CPU = torch.device("cpu")
SCALING = 0.2
NUM_SLOTS = 3000
NUM_ROWS = 24
HEAD_DIM = 16


class Layer:
    """A KV store that eager steps and graphs go over in turn, each from the same contents."""

    def __init__(self, capture: ReplayCapture, group: int, num_kv_heads: int) -> None:
        self.capture = capture
        self.num_heads, self.num_kv_heads = num_kv_heads * group, num_kv_heads
        self.generator = torch.Generator().manual_seed(group)
        self.cache = KVCache([(num_kv_heads, HEAD_DIM)], NUM_SLOTS, torch.float32, "cpu")
        for stored in self.cache.layer(0):
            stored.copy_(self.normal(*stored.shape))
        self.backend = make_backend("triton", self.cache, group)
        self.cutter = PlanCutter(self.backend.shape_rows)
        self.slots = DeviceSlots(CPU)
        self.slots.entries.fill_(NOWHERE)
        self.q = torch.zeros(NUM_ROWS, self.num_heads, HEAD_DIM)
        self.k = torch.zeros(NUM_ROWS, num_kv_heads, HEAD_DIM)
        self.v = torch.zeros(NUM_ROWS, num_kv_heads, HEAD_DIM)
        self.out = torch.zeros(NUM_ROWS, self.num_heads, HEAD_DIM)
        self.graphs: dict[Bucket, tuple[StaticBatch, Callable[[], None]]] = {}

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def check(self, tree: TreeStep, **options) -> None:
        """The step's graph gives the bits of the eager step, and leaves the same KV store."""
        num_rows = tree.step.num_rows
        for rows in (self.q, self.k, self.v):
            rows.fill_(torch.nan)
            rows[:num_rows] = self.normal(num_rows, *rows.shape[1:])
        before = [stored.clone() for stored in self.cache.layer(0)]
        eager = self.backend.attend(
            self.q[:num_rows],
            self.k[:num_rows],
            self.v[:num_rows],
            0,
            make_batch(tree.step, "cpu", self.backend),
            scaling=SCALING,
            **options,
        )
        after = [stored.clone() for stored in self.cache.layer(0)]
        for stored, old in zip(self.cache.layer(0), before, strict=True):
            stored.copy_(old)
        self.replay(tree, options)
        assert not eager.isnan().any()
        assert torch.equal(self.out[:num_rows], eager)
        assert (self.out[num_rows:] == 0).all()
        for stored, expected in zip(self.cache.layer(0), after, strict=True):
            assert torch.equal(stored, expected)

    def replay(self, tree: TreeStep, options) -> None:
        cut = self.cutter.cut(tree.step.plan)
        bucket = Bucket(NUM_ROWS, cut.tiles.widest_shape)
        assert bucket.holds(tree.step, cut)
        self.slots.update(tree.step.plan)
        key = (bucket, *(name for name in options))
        known = self.graphs.get(key)
        if known is None:
            static = StaticBatch(bucket, CPU, self.backend, self.slots)
        else:
            static, replay = known
        static.fill(tree.step, cut, None)

        def work() -> None:
            batch = static.batch()
            out = self.backend.attend(self.q, self.k, self.v, 0, batch, scaling=SCALING, **options)
            self.out.copy_(out)

        if known is None:
            replay = self.capture.capture(work)
            self.graphs[key] = static, replay
        self.out.fill_(torch.nan)
        replay()


@pytest.fixture
def capture(monkeypatch) -> ReplayCapture:
    poison(monkeypatch)
    return ReplayCapture(monkeypatch)


def small_tree(seed: int, *, shared: bool) -> TreeStep:
    return tree_step(seed, max_len=12, num_branches=3, num_samples=2, shared=shared)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "num_kv_heads"), [(1, 2), (2, 2), (5, 1), (16, 1)])
def test_captured_on_one_tree_and_replayed_on_others(capture, group, num_kv_heads):
    layer = Layer(capture, group, num_kv_heads)
    for seed in range(5):
        tree = small_tree(seed, shared=seed % 3 != 2)
        assert tree.step.num_rows <= NUM_ROWS
        layer.check(tree)
    assert capture.num_replayed > capture.num_captured


@pytest.mark.parametrize(
    "options",
    [{"window": 7}, {"softcap": 2.0}, {"sinks": 4}, {"window": 5, "softcap": 3.0, "sinks": 4}],
    ids=str,
)
def test_with_windows_soft_caps_and_sinks(capture, options):
    layer = Layer(capture, group=2, num_kv_heads=2)
    if "sinks" in options:
        options = {**options, "sinks": layer.normal(layer.num_heads)}
    for seed in range(20, 23):
        layer.check(small_tree(seed, shared=True), **options)
    assert capture.num_replayed > capture.num_captured


def test_fewer_and_more_rows_items_and_states_than_at_the_capture(capture):
    """The first step has what fills a bucket's rows, then one has a single row, then many items."""
    layer = Layer(capture, group=1, num_kv_heads=1)
    trunk = list(range(10))

    def step(num_rows: int, num_items: int) -> TreeStep:
        rows, length = list(range(num_rows)), len(trunk)
        items = [Item(rows, [100 + i], length + i) for i in range(num_items)]
        tails = [Item([row], [200 + row], length + num_items) for row in rows]
        made = make_step(
            [Item(rows, trunk, 0), *items, *tails],
            [length + num_items] * num_rows,
            [200 + row for row in rows],
        )
        return TreeStep(made, NUM_SLOTS, [])

    for num_rows, num_items in ((24, 0), (1, 0), (24, 9), (3, 30), (24, 0)):
        layer.check(step(num_rows, num_items))


def test_a_bucket_says_what_it_has_no_room_for():
    bucket, cutter = Bucket(1, 3), PlanCutter((1, 16, 64, 128))
    for num_items, fits in ((1028, True), (1029, False)):
        items = [Item([0], [i], i) for i in range(num_items)]
        step = make_step(items, [num_items], [0])
        assert bucket.holds(step, cutter.cut(step.plan)) == fits


def test_sizes_of_buckets():
    sizes = sorted({padded_rows(rows, 1000) for rows in range(1, 1001)})
    assert sizes[:6] == [1, 2, 4, 8, 12, 16]
    assert sizes[6:12] == list(range(24, 65, 8))
    assert sizes[12:24] == list(range(80, 257, 16))
    assert sizes[24:32] == list(range(288, 513, 32))
    assert sizes[32:] == [*range(576, 961, 64), 1000]
    assert all(padded_rows(rows, 1000) >= rows for rows in range(1, 1001))
    assert [padded_rows(rows, 3) for rows in (1, 2, 3)] == [1, 2, 3]


def test_tokens_that_nobody_has_read_come_from_the_last_draws():
    layer_backend = make_backend("triton", KVCache([(1, 16)], 8, torch.float32, "cpu"))
    step = make_step([Item([0, 1, 2], [0, 1], 0)], [1, 1, 1], [1, -1, -1])
    step.token_ids[:] = [-2, 7, -1]
    cut = PlanCutter(layer_backend.shape_rows).cut(step.plan)
    static = StaticBatch(Bucket(4, 3), CPU, layer_backend, DeviceSlots(CPU))
    static.fill(step, cut, torch.tensor([50, 60]))
    assert static.batch().token_ids.tolist() == [[60, 7, 50, 0]]
    assert static.batch().write_slots.tolist() == [1, -1, -1, -1]
    with pytest.raises(ValueError, match="token_ids: -2 stands for a token of the step before"):
        static.fill(step, cut, None)


def test_a_plan_that_goes_on_keeps_its_tiles_and_any_other_is_cut():
    cutter = PlanCutter((1, 16, 64, 128))
    step = make_step([Item([0, 1], [0, 1], 0), Item([1], [2], 2)], [1, 2], [1, 2])
    cut = cutter.cut(step.plan)
    assert cutter.cut(step.plan) is cut
    other = make_step([Item([0, 1], [0, 1], 0)], [1, 1], [1, -1])
    assert np.array_equal(cutter.cut(other.plan).tiles.items, [0])
    assert cut.needs_merge
    assert not cutter.cut(other.plan).needs_merge
