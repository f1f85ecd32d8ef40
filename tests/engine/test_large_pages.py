"""Host memory comes as it is used, and what lies in it stays as it is in pages of any size."""

from pathlib import Path

import pytest
import torch

from treeserve.building import build_engine
from treeserve.config import EngineOptions
from treeserve.errors import ConfigError
from treeserve.kv_cache import KVCache
from treeserve.kv_layout import KVLayoutName
from treeserve.large_pages import lazy_zeros, move_to_large_pages

STATUS = Path("/proc/self/status")
needs_status = pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells what is resident")


def resident_bytes() -> int:
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) << 10


@needs_status
@pytest.mark.parametrize("layout", ["plain", "packed"])
def test_a_pool_takes_memory_as_it_is_used(layout: KVLayoutName):
    before = resident_bytes()
    cache = KVCache([(4, 64)] * 2, 1 << 17, torch.bfloat16, "cpu", layout)
    assert cache.layer(1).k.nbytes == 64 << 20
    assert resident_bytes() - before < 16 << 20
    cache.layer(1).k.fill_(1)
    assert 64 << 20 <= resident_bytes() - before < 96 << 20
    assert not cache.layer(1).v[-1].any()


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
