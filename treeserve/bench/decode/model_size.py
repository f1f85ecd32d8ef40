"""How large a model is, and a pool of its KV."""

import copy
from typing import Any

import torch

from treeserve.config import DEFAULT_PAGE_SIZE
from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel
from treeserve.packed_linear import PackedLinear


def describe_model(model: LoadedModel) -> dict[str, Any]:
    """Plain data."""
    layer = model.layers[0]
    return {
        "name": model.name,
        "num_parameters": num_parameters(model),
        "num_layers": len(model.layers),
        "num_heads": layer.num_heads,
        "num_kv_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
    }


def num_parameters(model: LoadedModel) -> int:
    """As transformers counts them, tied ones once: layers may have been replaced by others."""
    with torch.device("meta"):
        plain = type(model.module)(copy.deepcopy(model.module.config))
    return sum(parameter.numel() for parameter in plain.parameters())


def weights_bytes(model: LoadedModel) -> int:
    """As they are kept: packed, quantized, and a tied one as often as it is in memory."""
    parts = model.module.modules()
    packed = sum(part.weight_bytes for part in parts if isinstance(part, PackedLinear))
    plain: int = sum(parameter.nbytes for parameter in model.module.parameters())
    return packed + plain


def pool_bytes(model: LoadedModel, num_pages: int) -> int:
    """Of so many pages of K and V."""
    shapes = [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
    return KVCache.bytes_per_slot(shapes, model.dtype) * DEFAULT_PAGE_SIZE * num_pages
