"""The paper device charges for what a step does, and tells the planner the same prices."""

import numpy as np
import pytest

from treeserve.config import SchedulerConfig
from treeserve.errors import ConfigError
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.simulation.device import PRESETS, preset


def decode_step():
    """One row that sees five tokens."""
    scheduler = Scheduler(SchedulerConfig(num_pages=8, page_size=4))
    prompt = np.arange(4, dtype=np.int32)
    scheduler.add(ScheduledRequest("a", prompt, num_samples=1, max_tokens=4))
    scheduler.complete(scheduler.schedule(), [9])
    return scheduler.schedule()


@pytest.mark.parametrize(
    ("costs", "seconds"),
    [
        ({"overhead_seconds": 3.0}, 3),
        ({"weights_bytes": 7.0}, 7),
        ({"weights_bytes": 7.0, "bytes_per_second": 2.0}, 3.5),
        ({"flops_per_row": 4.0, "weights_bytes": 3.0}, 4),
        ({"flops_per_row": 4.0, "weights_bytes": 6.0}, 6),
        ({"bytes_per_kv_token": 2.0}, 10),
        ({"flops_per_seen_token": 3.0, "bytes_per_kv_token": 2.0}, 15),
        ({"bytes_per_kv_token": 2.0, "bytes_per_state": 1.0, "item_seconds": 0.25}, 11.25),
        ({"weights_bytes": 7.0, "bytes_per_kv_token": 2.0, "overhead_seconds": 1.0}, 18),
    ],
)
def test_a_step_costs_what_it_reads_or_computes_whichever_is_more(make_device, costs, seconds):
    assert make_device(**costs).step_seconds(decode_step()) == seconds


def test_the_planner_is_told_the_device_prices():
    device = preset("h100-8b")
    model = device.cost_model()
    assert model.token_cost == 131_072 / 3.35e12
    assert model.state_cost == device.bytes_per_state / 3.35e12
    assert model.item_cost == device.item_seconds
    assert model.sharing_cost == 0


def test_the_pool_is_what_the_weights_leave_of_the_memory():
    assert preset("h100-8b").num_pages(16) == int((72e9 - 16e9) / 131_072) // 16
    assert all(device.num_pages(16) > 1000 for device in PRESETS.values())


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="'b200' is not one of h100-8b"):
        preset("b200")
