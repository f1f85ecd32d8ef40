"""Programs that fit on a multiprocessor, worked out by hand."""

import pytest

from treeserve.kernels.occupancy import Footprint, programs_per_multiprocessor


@pytest.mark.parametrize(
    ("footprint", "sm_80", "sm_90"),
    [
        # 128 registers are 4,096 a warp: 16 warps.
        (Footprint(registers=128, shared_bytes=1024, num_warps=4), 4, 4),
        # 129 are rounded up to 4,352 a warp: 15 warps, of which 12 in whole fours.
        (Footprint(registers=129, shared_bytes=1024, num_warps=4), 3, 3),
        # 168 registers are 5,376: 12 warps.
        (Footprint(registers=168, shared_bytes=1024, num_warps=4), 3, 3),
        (Footprint(registers=169, shared_bytes=1024, num_warps=4), 2, 2),
        # 8,192 a warp: 8 warps, one program of 8.
        (Footprint(registers=255, shared_bytes=1024, num_warps=8), 1, 1),
        # With the reserved KiB each takes 38.25 KiB: 4 in 164 KiB, 5 in 228.
        (Footprint(registers=32, shared_bytes=38144, num_warps=4), 4, 5),
        # 41 KiB and the reserved one are exactly a quarter of 168: 3 in 164 KiB, 5 in 228.
        (Footprint(registers=32, shared_bytes=41 << 10, num_warps=4), 3, 5),
        (Footprint(registers=32, shared_bytes=40 << 10, num_warps=4), 4, 5),
        # 2,048 threads are 16 programs of 4 warps.
        (Footprint(registers=20, shared_bytes=0, num_warps=4), 16, 16),
        # 32 programs at most, small as they are.
        (Footprint(registers=16, shared_bytes=0, num_warps=1), 32, 32),
        # Registers are given to single warps, but in each quarter: 65,536 / 1,536 = 42, so 40.
        (Footprint(registers=46, shared_bytes=0, num_warps=4), 10, 10),
        # More than there is.
        (Footprint(registers=32, shared_bytes=164 << 10, num_warps=4), 0, 1),
        (Footprint(registers=255, shared_bytes=0, num_warps=16), 0, 0),
    ],
)
def test_programs_that_fit(footprint, sm_80, sm_90):
    assert programs_per_multiprocessor(footprint, "sm_80") == sm_80
    assert programs_per_multiprocessor(footprint, "sm_90") == sm_90
