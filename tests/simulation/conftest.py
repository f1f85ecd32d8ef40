"""Paper devices on which every time can be worked out by hand."""

import pytest

from treeserve.simulation.device import PaperDevice

IDLE = {
    "memory_bytes": 1e6,
    "bytes_per_second": 1.0,
    "flops_per_second": 1.0,
    "weights_bytes": 0.0,
    "flops_per_row": 0.0,
    "flops_per_seen_token": 0.0,
    "bytes_per_kv_token": 0.0,
    "bytes_per_state": 0.0,
    "item_seconds": 0.0,
    "overhead_seconds": 0.0,
}


@pytest.fixture
def make_device():
    """A device that takes no time, but for what is named."""
    return lambda **costs: PaperDevice(**{**IDLE, **costs})
