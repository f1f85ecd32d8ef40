"""The process group of the ranks: what rank 0 tells the others, and how a loss is noticed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from treeserve.errors import ConfigError, RankLost
from treeserve.scheduler.step import Int32Array

LOAD_TIMEOUT = timedelta(minutes=10)
"""Of one exchange while the model computes or is loaded: a rank that hangs is lost after it."""
_IDLE_TIMEOUT = timedelta(days=365)
"""Of waiting for the next step, which comes when there is a request."""


@dataclass(frozen=True, slots=True)
class Place:
    """A process' place among the ranks."""

    rank: int
    size: int
    store: Path | None = None
    """The file over which the ranks of one machine find each other; None: as torchrun says."""


class RankGroup:
    """One for each process at most, since PyTorch's default group is what the model uses.

    Args:
        place: This process' place.
        device: What the model runs on: ranks exchange its tensors by nccl on cuda, else by gloo.

    Raises:
        ConfigError: This process belongs to a group already.
        RankLost: The others did not come.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        if dist.is_initialized():
            raise ConfigError(
                "tensor_parallel: this process belongs to a process group already; one engine "
                "with more than one rank can run in a process"
            )
        self.rank, self.size, self._device = place.rank, place.size, device
        # What these ranks say to each other is nobody else's to hear.
        if place.store is not None and Path("/sys/class/net/lo").exists():
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with lost_as_error():
            self._open(place)

    def _open(self, place: Place) -> None:
        backend = "cpu:gloo,cuda:nccl" if self._device.type == "cuda" else "gloo"
        if place.store is None:
            dist.init_process_group(backend, timeout=LOAD_TIMEOUT)
        else:
            store = FileStore(str(place.store), place.size)
            dist.init_process_group(
                backend, store=store, rank=place.rank, world_size=place.size, timeout=LOAD_TIMEOUT
            )
        self._steps = dist.new_group(backend="gloo", timeout=_IDLE_TIMEOUT)

    def least(self, value: int) -> int:
        """The least of the values that the ranks give, all of them at the same point."""
        tensor = torch.tensor([value])
        with lost_as_error():
            dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)

    def tell(self, arrays: Sequence[Int32Array]) -> None:
        """Rank 0: a message to all others."""
        lengths = torch.tensor([len(array) for array in arrays])
        with lost_as_error():
            dist.broadcast(lengths, 0, group=self._steps)
            dist.broadcast(torch.from_numpy(np.concatenate(arrays)), 0, group=self._steps)

    def hear(self, num_arrays: int) -> list[Int32Array]:
        """The others: the next message of rank 0, however long that takes."""
        lengths = torch.zeros(num_arrays, dtype=torch.int64)
        with lost_as_error():
            dist.broadcast(lengths, 0, group=self._steps)
            words = torch.empty(int(lengths.sum()), dtype=torch.int32)
            dist.broadcast(words, 0, group=self._steps)
        return np.split(words.numpy(), np.cumsum(lengths.numpy())[:-1])

    def share(self, tensor: Tensor) -> None:
        """Rank 0's [any shape] tensor on the device becomes everyone's."""
        dist.broadcast(tensor, 0)

    def close(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def lost_as_error() -> Iterator[None]:
    """What PyTorch raises where another rank is gone or hangs becomes RankLost."""
    try:
        yield
    except (RuntimeError, dist.DistBackendError) as error:
        first_line = str(error).partition("\n")[0]
        raise RankLost(f"a rank is gone or hangs: {first_line}") from error
