"""Work lists made by hand for kernel tests, with poison wherever nothing may be read."""

from dataclasses import dataclass, replace

import torch
from attention.plans import Item, make_step

from treeserve.batch import make_batch
from treeserve.kernels.attention_config import max_pairs
from treeserve.kernels.tiles import rows_of_shapes
from treeserve.kernels.work_list import WorkList


class _Tiling:
    """As much of a backend as a batch is made with."""

    def __init__(self, shape_rows: tuple[int, ...]) -> None:
        self.shape_rows = shape_rows

    def prepare(self, step, work) -> None:
        return None


def work_list(items: list[Item], positions: list[int], shape_rows: tuple[int, ...]) -> WorkList:
    step = make_step(items, positions, [-1] * len(positions))
    return make_batch(step, "cpu", _Tiling(shape_rows)).work


@dataclass(frozen=True)
class Case:
    """Queries, caches and items: every slot that no item names is NaN."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    work: WorkList


def make_case(
    items: list[Item],
    positions: list[int],
    *,
    group: int = 1,
    num_kv_heads: int = 2,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    shape_rows: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    used = sorted({slot for item in items for slot in item.slots})
    num_slots = max(used, default=0) + 7
    shape = (num_slots, num_kv_heads, head_dim)
    k_cache = torch.full(shape, torch.nan, dtype=dtype)
    v_cache = torch.full(shape, torch.nan, dtype=dtype)
    for cache in (k_cache, v_cache):
        cache[used] = torch.randn(len(used), *shape[1:], generator=generator).to(dtype)
    num_heads = num_kv_heads * group
    q = torch.randn(len(positions), num_heads, head_dim, generator=generator).to(dtype)
    shape_rows = shape_rows or rows_of_shapes(group, max_pairs(head_dim, dtype))
    return Case(q, k_cache, v_cache, work_list(items, positions, shape_rows))


def in_float64(case: Case) -> Case:
    return replace(
        case, q=case.q.double(), k_cache=case.k_cache.double(), v_cache=case.v_cache.double()
    )


def scattered(first: int, count: int) -> list[int]:
    """Slots in no order, with unused ones between them."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count)).tolist()
    return [first + 2 * i for i in order]
