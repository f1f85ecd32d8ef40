"""The KV write kernel against the reference, under the interpreter."""

import pytest
import torch

from treeserve.kernels import reference
from treeserve.kernels.kv_write import write_kv

SLOTS = torch.tensor([5, -1, 0, 9], dtype=torch.int32)


def make_kv(num_kv_heads: int, head_dim: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 4, num_kv_heads, head_dim, generator=generator).to(dtype)
    cache = torch.full((10, num_kv_heads, head_dim), torch.nan, dtype=dtype)
    return k, v, cache, cache.clone()


@pytest.mark.parametrize(
    ("num_kv_heads", "head_dim"), [(1, 16), (2, 64), (3, 80), (5, 96), (8, 128), (9, 256)]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_slots_written_are_the_rows_and_no_other(num_kv_heads, head_dim, dtype):
    k, v, k_cache, v_cache = make_kv(num_kv_heads, head_dim, dtype)
    expected = k_cache.clone(), v_cache.clone()
    reference.write_kv(k, v, *expected, SLOTS)
    write_kv(k, v, k_cache, v_cache, SLOTS)
    torch.testing.assert_close(k_cache, expected[0], atol=0, rtol=0, equal_nan=True)
    torch.testing.assert_close(v_cache, expected[1], atol=0, rtol=0, equal_nan=True)
    assert torch.equal(k_cache[5], k[0])
    assert k_cache[[1, 2, 3, 4, 6, 7, 8]].isnan().all(), "NO_SLOT writes nothing"


def test_rows_may_be_strided():
    k, v, k_cache, v_cache = make_kv(3, 16)
    by_head = k.transpose(0, 1).contiguous().transpose(0, 1)
    write_kv(by_head, v, k_cache, v_cache, SLOTS)
    assert torch.equal(k_cache[9], k[3])
    assert torch.equal(v_cache[9], v[3])


def test_no_rows():
    k, v, k_cache, v_cache = make_kv(1, 16)
    write_kv(k[:0], v[:0], k_cache, v_cache, SLOTS[:0])
    assert k_cache.isnan().all()


def test_wrong_arguments_are_refused():
    k, v, k_cache, v_cache = make_kv(2, 16)
    with pytest.raises(TypeError, match="k:"):
        write_kv(k.double(), v, k_cache, v_cache, SLOTS)
    with pytest.raises(ValueError, match="v:"):
        write_kv(k, v[:2], k_cache, v_cache, SLOTS)
    with pytest.raises(TypeError, match="k_cache:"):
        write_kv(k, v, k_cache.half(), v_cache, SLOTS)
    with pytest.raises(ValueError, match="v_cache:"):
        write_kv(k, v, k_cache, v_cache[:, :1], SLOTS)
    with pytest.raises(ValueError, match="k_cache:"):
        write_kv(k, v, k_cache.transpose(0, 1).contiguous().transpose(0, 1), v_cache, SLOTS)
    with pytest.raises(TypeError, match="write_slots:"):
        write_kv(k, v, k_cache, v_cache, SLOTS.long())
    with pytest.raises(ValueError, match="write_slots:"):
        write_kv(k, v, k_cache, v_cache, SLOTS[:3])
    with pytest.raises(ValueError, match="v_cache: on meta"):
        write_kv(k, v, k_cache, v_cache.to("meta"), SLOTS)
