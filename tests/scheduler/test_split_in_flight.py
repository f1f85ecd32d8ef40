"""A prompt that is computed in parts, and split while one of them is on its way."""

import pytest
from kv_on_paper import drawn, make_device, request, run_alone
from overlapped import Overlapped

from treeserve.config import SchedulerConfig
from treeserve.scheduler.scheduler import Scheduler


@pytest.mark.parametrize("num_common", [1, 3, 5])
@pytest.mark.parametrize("num_steps", [1, 3, 6])
def test_a_sample_that_ends_along_a_prompt_leaves_it_to_be_computed_whole(num_common, num_steps):
    """It is cached where the prompt begins with what it drew, which splits the prompt there."""
    config = SchedulerConfig(num_pages=200, page_size=1, token_budget=4, max_running=4, reserve=1.0)
    scheduler, device = Scheduler(config), make_device(config)
    overlapped = Overlapped(scheduler, device, scheduler.check)
    sample = request("sample", [0, 1], max_tokens=9)
    own = run_alone(sample, 0, 4)
    prompt = [0, 1, *own[:num_common], (own[num_common] + 1) % 4, *[2] * 30]
    along = request("along", prompt, max_tokens=2)
    scheduler.add(sample)
    updates = []
    for _ in range(num_steps):
        updates += overlapped.step()
    scheduler.add(along)
    updates += overlapped.run_until_idle()
    assert drawn(updates) == {("sample", 0): own, ("along", 0): run_alone(along, 0, 4)}
