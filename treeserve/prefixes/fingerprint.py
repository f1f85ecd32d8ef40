"""The fingerprint: what a saved prefix's KV belongs to, and fits no other."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel
from treeserve.packed_linear import PackedLinear
from treeserve.parallel_model import local_part
from treeserve.tokenizer import Tokenizer

FORMAT_VERSION = "1"
"""Of the file, and of what is in it."""
SAMPLED_ELEMENTS = 256
"""Of each weight: enough to tell checkpoints apart, quick enough for every start."""
_IRRELEVANT = frozenset({"transformers_version", "dtype", "torch_dtype"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Two engines whose fingerprints are equal can read each other's KV.

    Device and attention backend are no part of it: theirs differ by rounding only.
    """

    format_version: str
    model: str
    """SHA-256 over the configuration and a sample of every weight, by name, shape and dtype."""
    tokenizer: str
    dtype: str
    """Of the keys and values."""
    layers: str
    """[num_kv_heads, head_dim] of each, as JSON."""

    def as_metadata(self) -> dict[str, str]:
        return asdict(self)

    def differences(self, metadata: Mapping[str, object]) -> list[str]:
        """The names of what is another's there."""
        return [name for name, own in self.as_metadata().items() if metadata.get(name) != own]


def make_fingerprint(model: LoadedModel, tokenizer: Tokenizer, kv_cache: KVCache) -> Fingerprint:
    """Of an engine; reads SAMPLED_ELEMENTS of every weight."""
    return Fingerprint(
        format_version=FORMAT_VERSION,
        model=_model_digest(model),
        tokenizer=tokenizer.fingerprint(),
        dtype=str(kv_cache.dtype).removeprefix("torch."),
        layers=json.dumps([list(shape) for shape in kv_cache.layer_shapes]),
    )


def _model_digest(model: LoadedModel) -> str:
    config = {
        name: value
        for name, value in model.module.config.to_dict().items()
        if name not in _IRRELEVANT and not name.startswith("_")
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in _weights(model.module):
        weight = local_part(weight)
        digest.update(f"\0{name} {tuple(weight.shape)} {weight.dtype}\0".encode())
        digest.update(_sample_bytes(weight))
    return digest.hexdigest()


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """By name; of packed ones, which are in no state_dict, one plain copy at a time."""
    plain = module.state_dict()
    packed = {
        f"{name}.weight": layer
        for name, layer in module.named_modules()
        if isinstance(layer, PackedLinear)
    }
    for name in sorted({*plain, *packed}):
        yield name, packed[name].weight if name in packed else plain[name]


def _sample_bytes(weight: torch.Tensor) -> bytes:
    """Of elements at even distances, the first and the last among them."""
    flat = weight.detach().reshape(-1)
    if len(flat) > SAMPLED_ELEMENTS:
        step = (len(flat) - 1) / (SAMPLED_ELEMENTS - 1)
        indices = [round(i * step) for i in range(SAMPLED_ELEMENTS)]
        flat = flat[torch.tensor(indices, device=flat.device)]
    return flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
