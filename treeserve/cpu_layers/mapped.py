"""Gives memory back while weights are packed: pages of checkpoint files, and what was freed."""

import ctypes
import mmap
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")


class MappedFiles:
    """The files that are mapped into memory now; none where that is not known."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        if not _MAPS.exists():
            return
        for line in _MAPS.read_text(errors="replace").splitlines():
            addresses, _, _, _, _, *path = line.split(maxsplit=5)
            if path and path[0].startswith("/"):
                start, end = (int(address, 16) for address in addresses.split("-"))
                self._ranges.append((start, end))

    def hold(self, weight: Tensor) -> bool:
        """Whether a weight lies in one of them."""
        first, last = weight.data_ptr(), weight.data_ptr() + weight.nbytes
        return any(start <= first and last <= end for start, end in self._ranges)

    def release(self, weight: Tensor) -> None:
        """Free the pages of a weight in a file; whoever reads it again reads them again.

        Args:
            weight: Without gaps, in a file, and never written to: that would be lost.
        """
        first, last = weight.data_ptr(), weight.data_ptr() + weight.nbytes
        first = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        length = last // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def trim_heap() -> None:
    """Give back what was freed between what is still in use; where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
