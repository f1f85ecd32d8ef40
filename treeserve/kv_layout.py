"""How a layer's K and V lie in memory: a token after the other, or packed for a CPU's products."""

from typing import Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from treeserve.large_pages import lazy_zeros

KVLayoutName: TypeAlias = Literal["plain", "packed"]

LANES = 16
"""Slots of a packed block."""


class LayerCache(NamedTuple):
    """One layer's storage, or some tokens' K and V."""

    k: Tensor
    """[num_slots, num_kv_heads, head_dim]; packed: [num_blocks, num_kv_heads, head_dim / 2, 16, 2]
    """
    v: Tensor
    """[num_slots, num_kv_heads, head_dim]; packed: [num_blocks, num_kv_heads, 8, head_dim, 2]"""


class KVLayout(Protocol):
    """Where in a layer's storage a slot's numbers are."""

    def allocate(
        self,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> LayerCache:
        """Storage of zeros for so many slots."""

    def read(self, storage: LayerCache, slots: Tensor) -> LayerCache:
        """Copies of these slots' K and V, [num_tokens, num_kv_heads, head_dim].

        Args:
            storage: Of this layout.
            slots: [num_tokens] int64
        """

    def write(self, storage: LayerCache, slots: Tensor, tokens: LayerCache) -> None:
        """Stores K and V of distinct slots; the inverse of `read`."""


class PlainLayout:
    """A slot's numbers side by side, slots in order."""

    def allocate(
        self,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> LayerCache:
        shape = (num_slots, num_kv_heads, head_dim)
        k, v = (_zeros(shape, dtype, device) for _ in range(2))
        return LayerCache(k, v)

    def read(self, storage: LayerCache, slots: Tensor) -> LayerCache:
        return LayerCache(storage.k.index_select(0, slots), storage.v.index_select(0, slots))

    def write(self, storage: LayerCache, slots: Tensor, tokens: LayerCache) -> None:
        storage.k.index_copy_(0, slots, tokens.k)
        storage.v.index_copy_(0, slots, tokens.v)


class PackedLayout:
    """Slot s is lane s % 16 of block s / 16; as in kernels/cpu/layout.h.

    A block holds K as pairs along the head's dimensions and V as pairs along the lanes: what a
    matrix unit of bfloat16 pairs multiplies by. Blocks of a page lie side by side, so any slot is
    written on its own and a split segment is read in place, its neighbours' lanes masked.
    """

    def allocate(
        self,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> LayerCache:
        num_blocks = -(-num_slots // LANES)
        k_shape = (num_blocks, num_kv_heads, head_dim // 2, LANES, 2)
        v_shape = (num_blocks, num_kv_heads, LANES // 2, head_dim, 2)
        k, v = (_zeros(shape, dtype, device) for shape in (k_shape, v_shape))
        return LayerCache(k, v)

    def read(self, storage: LayerCache, slots: Tensor) -> LayerCache:
        block, lane = slots // LANES, slots % LANES
        k = storage.k[block, :, :, lane].flatten(2)
        v = storage.v[block, :, lane // 2, :, lane % 2]
        return LayerCache(k, v)

    def write(self, storage: LayerCache, slots: Tensor, tokens: LayerCache) -> None:
        block, lane = slots // LANES, slots % LANES
        storage.k[block, :, :, lane] = tokens.k.reshape(*tokens.k.shape[:2], -1, 2)
        storage.v[block, :, lane // 2, :, lane % 2] = tokens.v


LAYOUTS: dict[KVLayoutName, KVLayout] = {"plain": PlainLayout(), "packed": PackedLayout()}


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU a pool takes memory as it is used; on a device it is there from the beginning."""
    if device.type == "cpu":
        return lazy_zeros(shape, dtype)
    return torch.zeros(shape, dtype=dtype, device=device)
