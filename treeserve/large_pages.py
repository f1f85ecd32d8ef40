"""Memory in large pages, whose addresses a processor finds sooner: KV pools, packed weights."""

import ctypes
import math
import mmap
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_LARGE = 2 << 20
"""Bytes of a large page of x86_64; where pages are of another size, nothing is gained or lost."""
_COLLAPSE = 25
"""MADV_COLLAPSE, which Python does not name: at once, of what is in small pages. Linux 6.1."""


def lazy_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros in host memory, whose pages come to be as they are first written to or read.

    Args:
        shape: With at least one number.
        dtype: Of the numbers.

    Raises:
        MemoryError: There is not so much.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{num_bytes:,} bytes are not to be had: {error.strerror}") from error
    zeros = torch.frombuffer(memory, dtype=dtype).view(*shape)
    ask_for_large_pages(zeros)
    return zeros


def ask_for_large_pages(*tensors: Tensor) -> None:
    """For what has not been written to yet; where the system has none, nothing happens.

    Args:
        tensors: In host memory, without gaps.
    """
    for start, end in _ranges(tensors):
        _advise(start, end, getattr(mmap, "MADV_HUGEPAGE", None))


def move_to_large_pages(tensors: Iterable[Tensor]) -> None:
    """What is in small pages as yet, where it lies; takes one large page more on the way.

    Args:
        tensors: As for `ask_for_large_pages`; neighbours may share a large page.
    """
    for start, end in _ranges(tensors):
        _advise(start, end, getattr(mmap, "MADV_HUGEPAGE", None))
        _advise(start, end, _COLLAPSE)


def _ranges(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Addresses of whole large pages; between neighbours lies what an allocator needs."""
    joined: list[tuple[int, int]] = []
    places = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors]
    for start, end in sorted(places):
        if joined and start - joined[-1][1] <= mmap.PAGESIZE:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    whole = [(-(-start // _LARGE) * _LARGE, end // _LARGE * _LARGE) for start, end in joined]
    return [(start, end) for start, end in whole if start < end]


def _advise(start: int, end: int, advice: int | None) -> None:
    """Advice that the system does not take changes nothing."""
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None and advice is not None:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(advice))
