"""Tokens' K and V leave the cache and come back as they were, and nothing else is touched."""

import numpy as np
import pytest
import torch

from treeserve.kv_cache import KVCache, LayerCache
from treeserve.kv_layout import LAYOUTS

SHAPES = [(2, 4), (1, 8)]


def filled(dtype: torch.dtype = torch.bfloat16) -> KVCache:
    cache = KVCache(SHAPES, 20, dtype, "cpu")
    generator = torch.Generator().manual_seed(1)
    for index in range(len(SHAPES)):
        for tensor in cache.layer(index):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_read_and_written_elsewhere_is_the_same(dtype):
    source, target = filled(dtype), KVCache(SHAPES, 20, dtype, "cpu")
    from_slots = np.array([3, 19, 0, 7], dtype=np.int32)
    to_slots = np.array([5, 1, 2, 18], dtype=np.int32)
    target.write_slots(to_slots, source.read_slots(from_slots))
    rest = np.setdiff1d(np.arange(20), to_slots)
    for index in range(len(SHAPES)):
        for old, new in zip(source.layer(index), target.layer(index), strict=True):
            assert torch.equal(new[to_slots], old[from_slots])
            assert not new[rest].any()


def test_tokens_are_the_same_in_every_layout():
    plain, packed = (KVCache(SHAPES, 37, torch.bfloat16, "cpu", name) for name in LAYOUTS)
    slots = np.array([36, 3, 16, 0, 15, 17, 31], dtype=np.int32)
    generator = torch.Generator().manual_seed(3)
    given = [
        LayerCache(*(torch.randn(7, *shape, generator=generator).bfloat16() for _ in range(2)))
        for shape in SHAPES
    ]
    everything = np.arange(37, dtype=np.int32)
    for cache in (plain, packed):
        cache.write_slots(slots, given)
    for mine, other in zip(*(c.read_slots(everything) for c in (plain, packed)), strict=True):
        assert torch.equal(mine.k, other.k)
        assert torch.equal(mine.v, other.v)
    for mine, read in zip(given, packed.read_slots(slots), strict=True):
        assert torch.equal(mine.k, read.k)
        assert torch.equal(mine.v, read.v)


def test_a_packed_cache_takes_no_more_memory_than_a_plain_one():
    sizes = {
        name: sum(t.numel() for t in KVCache(SHAPES, 64, torch.bfloat16, "cpu", name).layer(0))
        for name in LAYOUTS
    }
    assert sizes["plain"] == sizes["packed"] == 2 * 64 * 2 * 4


def test_a_copy_does_not_change_with_the_cache():
    cache = filled()
    copies = cache.read_slots(np.array([4], dtype=np.int32))
    before = copies[0].k.clone()
    cache.layer(0).k.zero_()
    assert torch.equal(copies[0].k, before)


def test_no_slots_are_no_tokens():
    cache = filled()
    none = np.zeros(0, dtype=np.int32)
    assert [layer.k.shape for layer in cache.read_slots(none)] == [(0, 2, 4), (0, 1, 8)]
    cache.write_slots(none, cache.read_slots(none))


@pytest.mark.parametrize("wrong", ["layers", "tokens", "shape", "dtype"])
def test_what_does_not_fit_is_refused_before_anything_is_written(wrong):
    cache = filled()
    slots = np.array([1, 2], dtype=np.int32)
    before = cache.read_slots(slots)
    other = [LayerCache(layer.k + 1, layer.v + 1) for layer in before]
    bad = {
        "layers": other[:1],
        "tokens": [other[0], LayerCache(other[1].k[:1], other[1].v)],
        "shape": [other[0], LayerCache(other[1].k, other[1].v.transpose(1, 2))],
        "dtype": [other[0], LayerCache(other[1].k, other[1].v.float())],
    }[wrong]
    with pytest.raises(ValueError, match="layer"):
        cache.write_slots(slots, bad)
    after = cache.read_slots(slots)
    assert all(torch.equal(a.k, b.k) for a, b in zip(before, after, strict=True))
