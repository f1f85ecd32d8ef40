"""Host memory comes as it is used, and what lies in it stays as it is in pages of any size."""

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from treeserve.building import build_engine
from treeserve.config import EngineOptions
from treeserve.errors import ConfigError
from treeserve.kv_cache import KVCache
from treeserve.kv_layout import KVLayoutName
from treeserve.large_pages import lazy_zeros, move_to_large_pages

PAGE_MAP = Path("/proc/self/pagemap")
needs_page_map = pytest.mark.skipif(not PAGE_MAP.exists(), reason="only Linux tells what is there")


def resident_bytes(cache: KVCache) -> int:
    """Of the pool itself: what else a process takes and gives back at the time does not matter."""
    places = [(t.data_ptr(), t.nbytes) for index in range(2) for t in cache.layer(index)]
    return sum(count_resident(start, num_bytes) for start, num_bytes in places)


def count_resident(start: int, num_bytes: int) -> int:
    with PAGE_MAP.open("rb") as pages:
        pages.seek(start // mmap.PAGESIZE * 8)
        entries = np.frombuffer(pages.read(num_bytes // mmap.PAGESIZE * 8), dtype=np.uint64)
    return int((entries >> np.uint64(63)).sum()) * mmap.PAGESIZE


@needs_page_map
@pytest.mark.parametrize("layout", ["plain", "packed"])
def test_a_pool_takes_memory_as_it_is_used(layout: KVLayoutName):
    cache = KVCache([(4, 64)] * 2, 1 << 17, torch.bfloat16, "cpu", layout)
    used, unused = cache.layer(1)
    assert used.nbytes == 64 << 20
    assert resident_bytes(cache) < 16 << 20
    used.fill_(1)
    assert 64 << 20 <= resident_bytes(cache) < 96 << 20
    assert not unused[-1].any()


def test_more_memory_than_an_address_can_name_is_refused():
    with pytest.raises(MemoryError, match="2,305,843,009,213,693,952 bytes are not to be had"):
        lazy_zeros((1 << 60,), torch.bfloat16)


def test_a_pool_that_is_larger_than_the_machine_is_refused_when_the_engine_is_built(checkpoint_of):
    """Not when it has been filled, which may be days later."""
    options = EngineOptions(model=str(checkpoint_of("llama")), device="cpu", num_pages=10**9)
    with pytest.raises(
        ConfigError, match=r"num_pages: 1,000,000,000 pages take .* GB; try at most"
    ):
        build_engine(options)


@pytest.mark.parametrize("count", [3, 700_000, 5_000_000])
def test_weights_stay_as_they_are_in_large_pages(count):
    """Beside each other, so that two may share a page; the smallest fills none."""
    weights = [torch.arange(count, dtype=torch.int32) + first for first in range(3)]
    move_to_large_pages(weights)
    for first, weight in enumerate(weights):
        assert torch.equal(weight, torch.arange(count, dtype=torch.int32) + first)
