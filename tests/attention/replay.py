"""A capture for tests: replays call the work again, and every launch must be the captured one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

KERNELS = {
    "treeserve.kernels.attention": "attention_kernel",
    "treeserve.kernels.kv_write": "write_kv_kernel",
    "treeserve.kernels.merge": "merge_states_kernel",
}
NOWHERE = 1 << 30
"""An index that is out of range everywhere."""


class _Recorder:
    """A kernel that notes what it is launched with before it is."""

    def __init__(self, name: str, kernel: Any, launches: list[Any]) -> None:
        self._name, self._kernel, self._launches = name, kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            self._launches.append((self._name, grid, *map(_frozen, args), kwargs))
            self._kernel[grid](*args, **kwargs)

        return launch


def _frozen(argument: Any) -> Any:
    """What of an argument a captured launch keeps for good."""
    if not isinstance(argument, torch.Tensor):
        return argument
    kept = (argument.dtype, tuple(argument.shape), argument.stride())
    # Lists stay where they are; what a launch computes lies anywhere here, but not on a GPU.
    return (*kept, argument.data_ptr()) if argument.dtype == torch.int32 else kept


class ReplayCapture:
    """Stands in for a GPU's graphs: host values, and where lists lie, are those of the capture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._launches: list[Any] = []
        self.num_warmed_up = 0
        self.num_captured = 0
        self.num_replayed = 0
        self.num_forgotten = 0
        for module, name in KERNELS.items():
            kernel = getattr(__import__(module, fromlist=[name]), name)
            monkeypatch.setattr(f"{module}.{name}", _Recorder(name, kernel, self._launches))

    def warm_up(self, work: Callable[[], None]) -> None:
        self.num_warmed_up += 1
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.num_captured += 1
        captured = self._run(work)
        assert captured, "nothing was launched"

        def replay() -> None:
            self.num_replayed += 1
            assert self._run(work) == captured, "a host value of the capture does not hold"

        return replay

    def forget(self) -> None:
        self.num_forgotten += 1

    def _run(self, work: Callable[[], None]) -> list[Any]:
        self._launches.clear()
        work()
        return list(self._launches)


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a static batch holds beyond its live part is out of range, what nobody writes is NaN."""
    real_buffer, real_empty = torch.empty, torch.Tensor.new_empty

    def host_buffer(num_bytes: int, _device: torch.device) -> torch.Tensor:
        buffer = real_buffer(num_bytes, dtype=torch.uint8)
        buffer.view(torch.int32).fill_(NOWHERE)
        return buffer

    def new_empty(tensor: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        made = real_empty(tensor, *shape, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr("treeserve.static_batch.host_buffer", host_buffer)
    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
