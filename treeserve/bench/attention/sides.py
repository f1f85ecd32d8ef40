"""The sides of a comparison: what each needs, and why one cannot run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from treeserve.bench.attention.paths import TreePaths
from treeserve.bench.attention.problem import Problem
from treeserve.bench.machine import free_bytes
from treeserve.bench.timing import Call

_MEMORY_SHARE = 0.85
_GIB = 1 << 30


class Unavailable(Exception):
    """This side cannot run here; says why in a few words."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One kernel, ready to be called; what it prepares beforehand is not timed."""

    call: Call
    """Returns [num_rows, num_heads, head_dim], depth first where `is_depth_first`."""
    is_depth_first: bool = True
    note: str = ""
    """How it reads the tree."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What every side is made from. The cache holds the rows' own tokens already."""

    problem: Problem
    paths: TreePaths

    @property
    def device(self) -> torch.device:
        return self.problem.query.device

    def ordered_query(self) -> Tensor:
        """[num_rows, num_heads, head_dim] depth first"""
        order = torch.from_numpy(self.paths.order).to(self.device)
        return self.problem.query.index_select(0, order)


SideMaker: TypeAlias = Callable[[Subject], Side]


def require_memory(num_bytes: int, device: torch.device) -> None:
    """Raise Unavailable if so much is not free."""
    free = free_bytes(device)
    if free is not None and num_bytes > free * _MEMORY_SHARE:
        raise Unavailable(
            f"does not fit: needs {num_bytes / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free"
        )


def first_line(error: BaseException) -> str:
    """What went wrong, short enough for a table's foot."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}"[:160]
