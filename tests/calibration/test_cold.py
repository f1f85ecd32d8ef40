"""A layer is timed with cold caches, as a model runs it, and by a clock that others do not move."""

import time

import pytest
import torch

from treeserve.calibration.cold import flush_bytes
from treeserve.calibration.measure import clock_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (["48K", "32K", "1024K", "32768K"], 64 << 20),
        (["32K\n", "2M\n"], 4 << 20),
        (["32K", "1G"], 128 << 20),
        ([], 64 << 20),
        (["many"], 64 << 20),
        (["32K", ""], 64 << 20),
        (["12X"], 64 << 20),
    ],
)
def test_what_is_read_between_runs_outgrows_the_largest_cache_within_reason(
    tmp_path, sizes, expected
):
    for index, size in enumerate(sizes):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "size").write_text(size)
    assert flush_bytes(tmp_path) == expected


def test_one_thread_is_timed_while_it_runs_and_several_by_the_wall_clock():
    """With one, what waits for a core that another program has is not counted."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert clock_for(CPU) is time.thread_time
        torch.set_num_threads(2)
        assert clock_for(CPU) is time.perf_counter
    finally:
        torch.set_num_threads(before)
    assert clock_for(torch.device("cuda")) is time.perf_counter
