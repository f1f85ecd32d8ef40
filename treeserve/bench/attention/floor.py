"""The floor: the least time that a tree's attention can take on this device, as measured here."""

from dataclasses import dataclass
from typing import Literal

import torch

from treeserve.bench.attention.paths import TreePaths, pack_tree
from treeserve.bench.attention.problem import Shape
from treeserve.bench.deadline import Deadline
from treeserve.bench.timing import Run, Stopwatch

_ROUNDS = 10
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 64 << 20}
_MATRIX_SIZE = {"cuda": 8192, "cpu": 512}
_PASSES_OVER_PAIRS = 4
"""Operations for each (row, token) pair, query head and dimension: two products, each a
multiplication and an addition."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Of the device, measured: its fastest of several runs."""

    bytes_per_second: float
    """Of a large copy, read and written bytes together."""
    operations_per_second: float
    """Of a large matrix product in the dtype."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a tree's attention has to do at the least."""

    distinct_tokens: int
    flat_tokens: int
    """Read if every row reads its path alone; also the number of (row, token) pairs."""
    num_bytes: int
    operations: int

    @property
    def bound(self) -> float:
        """What sharing can gain at most while memory is the limit.

        For a prefix of P tokens over B rows with S of their own it is (P + S) / (P / B + S).
        """
        return self.flat_tokens / self.distinct_tokens

    def floor(self, rates: Rates) -> "Floor":
        by_bytes = self.num_bytes / rates.bytes_per_second
        by_operations = self.operations / rates.operations_per_second
        if by_bytes >= by_operations:
            return Floor(by_bytes, "bytes")
        return Floor(by_operations, "operations")


@dataclass(frozen=True, slots=True)
class Floor:
    """No kernel can be faster."""

    seconds: float
    limited_by: Literal["bytes", "operations"]


def least_work(paths: TreePaths, shape: Shape) -> Work:
    """Every distinct token's K and V once, queries and outputs once, every product."""
    distinct = len(pack_tree(paths).slots)
    pairs = int(paths.lengths.sum())
    per_token = 2 * shape.num_kv_heads * shape.head_dim
    per_row = 2 * shape.num_heads * shape.head_dim
    numbers = distinct * per_token + paths.num_rows * per_row
    return Work(
        distinct_tokens=distinct,
        flat_tokens=pairs,
        num_bytes=numbers * shape.torch_dtype.itemsize,
        operations=_PASSES_OVER_PAIRS * pairs * shape.num_heads * shape.head_dim,
    )


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
    seconds = stopwatch.time_in_turn(runs, _ROUNDS, Deadline(None))
    return Rates(2 * size / min(seconds["copy"]), 2 * n**3 / min(seconds["product"]))
