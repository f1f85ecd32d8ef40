"""The KV cache: storage of every slot's keys and values in every layer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LayerShape(NamedTuple):
    """What one layer stores for one token: K and V of this shape each."""

    num_kv_heads: int
    head_dim: int


class LayerCache(NamedTuple):
    """One layer's storage."""

    k: Tensor
    """[num_slots, num_kv_heads, head_dim]"""
    v: Tensor
    """[num_slots, num_kv_heads, head_dim]"""


class KVCache:
    """Slot s holds one token's K and V in every layer; only attention backends read or write it."""

    def __init__(
        self,
        layer_shapes: Sequence[tuple[int, int]],
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Allocate the storage.

        Args:
            layer_shapes: (num_kv_heads, head_dim) of each layer.
            num_slots: Slots of the pool.
            dtype: Of the keys and values, as the model computes them.
            device: Where they lie.
        """
        self.dtype = dtype
        self.device = torch.device(device)
        self.num_slots = num_slots
        self.layer_shapes = tuple(LayerShape(*shape) for shape in layer_shapes)
        self._layers = tuple(
            LayerCache(
                torch.zeros(num_slots, *shape, dtype=dtype, device=self.device),
                torch.zeros(num_slots, *shape, dtype=dtype, device=self.device),
            )
            for shape in self.layer_shapes
        )

    @staticmethod
    def bytes_per_slot(layer_shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> int:
        """Bytes that one slot takes over all layers, K and V."""
        elements = sum(num_kv_heads * head_dim for num_kv_heads, head_dim in layer_shapes)
        return 2 * elements * dtype.itemsize

    def layer(self, layer_index: int) -> LayerCache:
        """The storage of one layer."""
        return self._layers[layer_index]
