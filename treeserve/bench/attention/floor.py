"""The floor: the least time that a tree's attention can take on this device, as measured here."""

from dataclasses import dataclass
from typing import Literal

from treeserve.bench.attention.paths import TreePaths, pack_tree
from treeserve.bench.attention.problem import Shape
from treeserve.bench.rates import Rates

_PASSES_OVER_PAIRS = 4
"""Operations for each (row, token) pair, query head and dimension: two products, each a
multiplication and an addition."""


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
