"""Transfers between host and device: arrays in one copy, results back, and the one wait."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HostArray: TypeAlias = NDArray[Any]

_ALIGNMENT = 16
"""Bytes: each array starts at a multiple of these, so kernels see aligned pointers."""
_DTYPES = {
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float64): torch.float64,
}


def host_buffer(num_bytes: int, device: torch.device) -> Tensor:
    """[num_bytes] uint8 in host memory, from where copies to the device keep nobody waiting.

    It may be let go of at once: pinned memory is not given out again before the copies from it that
    have been started are done.
    """
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def send(arrays: Sequence[HostArray], device: torch.device) -> list[Tensor]:
    """The arrays on the device, with one copy that nobody waits for.

    Args:
        arrays: One-dimensional, int32, int64 or float64; they may change as soon as this returns.
        device: Where to.
    """
    starts, num_bytes = aligned_starts([array.nbytes for array in arrays])
    buffer = host_buffer(num_bytes, device)
    host = buffer.numpy()
    for array, start in zip(arrays, starts, strict=True):
        host[start : start + array.nbytes].view(array.dtype)[:] = array
    on_device = buffer.to(device, non_blocking=True)
    return [
        on_device[start : start + array.nbytes].view(_DTYPES[array.dtype])
        for array, start in zip(arrays, starts, strict=True)
    ]


def aligned_starts(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where pieces of so many bytes start in one buffer, and the bytes of the buffer."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return starts, end


class Readback:
    """Results on their way to the host: the copy has been started, and nobody has waited yet.

    Args:
        packed: [size] int64 on the device.
    """

    def __init__(self, packed: Tensor) -> None:
        if packed.device.type == "cpu":
            self._host, self._event = packed, None
            return
        self._host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        self._host.copy_(packed, non_blocking=True)
        self._event = torch.Event(packed.device)
        self._event.record()

    def wait_sync(self) -> NDArray[np.int64]:
        """[size] once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()
