"""A digest over a model's configuration and weights, by which its KV is told from another's."""

import hashlib
import json

import torch
from transformers import PreTrainedModel

from treeserve.config import QuantizationName
from treeserve.parallel_model import local_part

SAMPLED_ELEMENTS = 256
"""Of each weight: enough to tell checkpoints apart, quick enough for every start."""
_IRRELEVANT = frozenset({"transformers_version", "dtype", "torch_dtype"})


def digest_model(module: PreTrainedModel, quantization: QuantizationName = "none") -> str:
    """SHA-256 over the configuration and a sample of every weight, by name, shape and dtype.

    Args:
        module: Its weights as they were loaded, not packed.
        quantization: That they get, or have already.
    """
    config = {
        name: value
        for name, value in module.config.to_dict().items()
        if name not in _IRRELEVANT and not name.startswith("_")
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(module.state_dict().items()):
        weight = local_part(weight)
        digest.update(f"\0{name} {tuple(weight.shape)} {weight.dtype}\0".encode())
        digest.update(_sample_bytes(weight))
    if quantization != "none":
        digest.update(f"\0{quantization}\0".encode())
    return digest.hexdigest()


def _sample_bytes(weight: torch.Tensor) -> bytes:
    """Of elements at even distances, the first and the last among them."""
    flat = weight.detach().reshape(-1)
    if len(flat) > SAMPLED_ELEMENTS:
        step = (len(flat) - 1) / (SAMPLED_ELEMENTS - 1)
        indices = [round(i * step) for i in range(SAMPLED_ELEMENTS)]
        flat = flat[torch.tensor(indices, device=flat.device)]
    return flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
