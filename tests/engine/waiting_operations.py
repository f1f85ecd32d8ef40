"""Fails on operations for which the host would wait for a GPU, on whatever device they run."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "lift_fresh",  # torch.tensor: a copy out of memory that is not pinned
    "masked_select",
    "nonzero",
    "unique_dim",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class WaitingOperation(AssertionError):
    """Names the operation."""


class NoWaiting(TorchDispatchMode):
    """Within it, an operation that waits raises WaitingOperation."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operations += 1
        name = func.__name__.partition(".")[0]
        if name in _WAITING or (name == "repeat_interleave" and "Tensor" in func.__name__):
            raise WaitingOperation(func.__name__)
        if name in _INDEXING and any(index is not None and _is_mask(index) for index in args[1]):
            raise WaitingOperation(f"{func.__name__} with a mask")
        if name in ("_to_copy", "to") and (kwargs or {}).get("device", args[0].device) != (
            args[0].device
        ):
            raise WaitingOperation(f"{func.__name__} to another device")
        return func(*args, **(kwargs or {}))


def _is_mask(index: torch.Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)
