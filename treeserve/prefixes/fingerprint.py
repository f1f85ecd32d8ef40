"""The fingerprint: what a saved prefix's KV belongs to, and fits no other."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel
from treeserve.model_digest import digest_model
from treeserve.tokenizer import Tokenizer

FORMAT_VERSION = "1"
"""Of the file, and of what is in it."""


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
    """Of an engine; reads some elements of every weight, unless that was done at load."""
    return Fingerprint(
        format_version=FORMAT_VERSION,
        model=model.digest or digest_model(model.module),
        tokenizer=tokenizer.fingerprint(),
        dtype=str(kv_cache.dtype).removeprefix("torch."),
        layers=json.dumps([list(shape) for shape in kv_cache.layer_shapes]),
    )
