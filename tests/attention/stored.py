"""What a layer of a KV cache holds, whatever its layout."""

import numpy as np
import torch

from treeserve.kv_cache import KVCache, LayerCache


def every_slot(cache: KVCache) -> np.ndarray:
    return np.arange(cache.num_slots, dtype=np.int32)


def read_layer(cache: KVCache, layer_index: int) -> LayerCache:
    """[num_slots, num_kv_heads, head_dim] each"""
    return cache.read_slots(every_slot(cache))[layer_index]


def write_layer(cache: KVCache, layer_index: int, k: torch.Tensor, v: torch.Tensor) -> None:
    """Every slot of one layer; the other layers keep theirs."""
    layers = cache.read_slots(every_slot(cache))
    layers[layer_index] = LayerCache(k, v)
    cache.write_slots(every_slot(cache), layers)
