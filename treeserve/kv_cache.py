"""The KV cache: storage of every slot's keys and values in every layer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from treeserve.kv_layout import LAYOUTS, KVLayoutName, LayerCache
from treeserve.scheduler.step import Int32Array

__all__ = ["KVCache", "LayerCache", "LayerShape"]


class LayerShape(NamedTuple):
    """What one layer stores for one token: K and V of this shape each."""

    num_kv_heads: int
    head_dim: int


class KVCache:
    """Slot s holds one token's K and V in every layer.

    While a step runs only attention backends read or write it; between two steps, whole tokens can
    be copied out and in. On a device both are ordered by the current stream, as steps are.
    """

    def __init__(
        self,
        layer_shapes: Sequence[tuple[int, int]],
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device | str,
        layout: KVLayoutName = "plain",
    ) -> None:
        """Allocate the storage.

        Args:
            layer_shapes: (num_kv_heads, head_dim) of each layer.
            num_slots: Slots of the pool.
            dtype: Of the keys and values, as the model computes them.
            device: Where they lie.
            layout: As the attention backend that reads them wants them; `kv_layout` knows.
        """
        self.dtype = dtype
        self.device = torch.device(device)
        self.num_slots = num_slots
        self.layer_shapes = tuple(LayerShape(*shape) for shape in layer_shapes)
        self.layout = layout
        self._form = LAYOUTS[layout]
        self._layers = tuple(
            self._form.allocate(num_slots, *shape, dtype, self.device)
            for shape in self.layer_shapes
        )

    @staticmethod
    def bytes_per_slot(layer_shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> int:
        """Bytes that one slot takes over all layers, K and V."""
        elements = sum(num_kv_heads * head_dim for num_kv_heads, head_dim in layer_shapes)
        return 2 * elements * dtype.itemsize

    def layer(self, layer_index: int) -> LayerCache:
        """The storage of one layer, in the cache's layout."""
        return self._layers[layer_index]

    def read_slots(self, slots: Int32Array) -> list[LayerCache]:
        """Copies of some tokens' K and V in host memory, layer by layer.

        Args:
            slots: [num_tokens]

        Returns:
            For each layer [num_tokens, num_kv_heads, head_dim], as the model computed them.
        """
        index = torch.from_numpy(slots.astype(np.int64)).to(self.device)
        copies = (self._form.read(stored, index) for stored in self._layers)
        return [LayerCache(k.cpu(), v.cpu()) for k, v in copies]

    def write_slots(self, slots: Int32Array, layers: Sequence[LayerCache]) -> None:
        """Stores some tokens' K and V; the inverse of `read_slots`.

        Args:
            slots: [num_tokens], distinct
            layers: For each layer [num_tokens, num_kv_heads, head_dim] in the cache's dtype.

        Raises:
            ValueError: They are of another shape or dtype; nothing is written.
        """
        if len(layers) != len(self._layers):
            raise ValueError(f"{len(layers)} layers for a cache of {len(self._layers)}")
        for number, (given, shape) in enumerate(zip(layers, self.layer_shapes, strict=True)):
            for tensor in given:
                if tensor.shape != (len(slots), *shape) or tensor.dtype != self.dtype:
                    raise ValueError(f"layer {number}: {tuple(tensor.shape)} of {tensor.dtype}")
        index = torch.from_numpy(slots.astype(np.int64)).to(self.device)
        for own, given in zip(self._layers, layers, strict=True):
            on_device = LayerCache(given.k.to(self.device), given.v.to(self.device))
            self._form.write(own, index, on_device)
