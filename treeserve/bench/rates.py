"""What a device can do at most, as measured on it: bytes copied and products made in a second."""

from dataclasses import dataclass

import torch

from treeserve.bench.deadline import Deadline
from treeserve.bench.timing import Run, Stopwatch
from treeserve.packed_linear import OneDnnLinear

_ROUNDS = 10
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 64 << 20}
_MATRIX_SIZE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True, slots=True)
class Rates:
    """Of the device, measured: its fastest of several runs."""

    bytes_per_second: float
    """Of a large copy, read and written bytes together."""
    operations_per_second: float
    """Of a large matrix product in the dtype; on a CPU of a packed matrix if that is quicker."""


def measure_rates(stopwatch: Stopwatch, dtype: torch.dtype, device: torch.device) -> Rates:
    """Of this device, now."""
    size = _COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    n = _MATRIX_SIZE[device.type]
    left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    runs = {
        "copy": Run(lambda: target.copy_(source), "graph"),
        "product": Run(lambda: torch.matmul(left, right, out=product), "graph"),
    }
    if _packs(device, dtype):
        layer = torch.nn.Linear(n, n, bias=False).to(dtype).requires_grad_(False)
        packed = OneDnnLinear(layer)
        runs["packed product"] = Run(lambda: packed(left), "graph")
    seconds = stopwatch.time_in_turn(runs, _ROUNDS, Deadline(None))
    copying = min(seconds.pop("copy"))
    return Rates(2 * size / copying, 2 * n**3 / min(map(min, seconds.values())))


def _packs(device: torch.device, dtype: torch.dtype) -> bool:
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
