"""The file of a saved schema: what it says, and its modules with their KV in every layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from treeserve.errors import Damaged, NotPossible
from treeserve.kv_cache import LayerCache
from treeserve.prefixes.fingerprint import Fingerprint
from treeserve.prefixes.saved_file import KVLimits, name_layers, seal, take_layers, unseal
from treeserve.scheduler.modules import Module

_WHAT = "schema"


@dataclass(frozen=True, slots=True, eq=False)
class SavedSchema:
    """A schema in PML, and the KV of its modules one after the other."""

    pml: str
    lengths: tuple[int, ...]
    """Tokens of each module."""
    tokens: Tensor
    """[num_tokens] int32, of all modules"""
    positions: Tensor
    """[num_tokens] int32, where they stand"""
    layers: list[LayerCache]
    """For each layer [num_tokens, num_kv_heads, head_dim], in host memory."""

    def check_modules(self, modules: Sequence[Module]) -> None:
        """Raises NotPossible unless these are the modules whose KV it is, in this order."""
        tokens, positions = _joined(modules)
        is_same = (
            self.lengths == tuple(map(len, modules))
            and torch.equal(self.tokens, tokens)
            and torch.equal(self.positions, positions)
        )
        if not is_same:
            raise NotPossible(
                "the saved schema does not fit: its modules have other tokens or positions, as "
                "another version lays them out; put the schema, and they are encoded anew"
            )

    def module_layers(self, index: int) -> list[LayerCache]:
        """The KV of one module."""
        start = sum(self.lengths[:index])
        end = start + self.lengths[index]
        return [LayerCache(k[start:end], v[start:end]) for k, v in self.layers]


def pack_schema(
    pml: str,
    modules: Sequence[Module],
    kv: Sequence[Sequence[LayerCache]],
    fingerprint: Fingerprint,
) -> list[memoryview]:
    """The content of the file, piece by piece.

    Args:
        pml: What the schema says.
        modules: Of it, at least one.
        kv: Of each module, for each layer [num_tokens, num_kv_heads, head_dim].
        fingerprint: Of the engine.
    """
    tokens, positions = _joined(modules)
    layers = [
        LayerCache(torch.cat([layer.k for layer in same]), torch.cat([layer.v for layer in same]))
        for same in zip(*kv, strict=True)
    ]
    tensors = {
        "pml": torch.from_numpy(np.frombuffer(pml.encode(), dtype=np.uint8).copy()),
        "lengths": torch.tensor([len(module) for module in modules], dtype=torch.int32),
        "tokens": tokens,
        "positions": positions,
    }
    return seal(tensors | name_layers(layers), fingerprint, {})


def unpack_schema(data: bytes, fingerprint: Fingerprint, limits: KVLimits) -> SavedSchema:
    """What a file holds, if it is whole and fits this engine; nothing of it is executed.

    Raises:
        Damaged: It is not what was written, or no saved schema at all.
        NotPossible: It is another engine's; says in what.
    """
    tensors, _ = unseal(data, fingerprint, _WHAT)
    try:
        pml = bytes(_take(tensors, "pml", torch.uint8).numpy()).decode()
    except UnicodeDecodeError:
        raise Damaged("the saved schema is damaged: what it says is no text") from None
    lengths = _take(tensors, "lengths", torch.int32)
    tokens = _take(tensors, "tokens", torch.int32)
    positions = _take(tensors, "positions", torch.int32)
    if int(lengths.min()) < 1 or not int(lengths.sum()) == len(tokens) == len(positions):
        raise Damaged("the saved schema is damaged: its modules do not add up")
    layers = take_layers(tensors, limits, len(tokens), _WHAT)
    return SavedSchema(pml, tuple(lengths.tolist()), tokens, positions, layers)


def _take(tensors: dict[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    tensor = tensors.pop(name, None)
    if tensor is None or tensor.dtype != dtype or tensor.ndim != 1 or not len(tensor):
        raise Damaged(f"the saved schema is damaged: it has no {name}")
    return tensor


def _joined(modules: Sequence[Module]) -> tuple[Tensor, Tensor]:
    tokens = np.concatenate([module.token_ids for module in modules])
    positions = np.concatenate([module.positions for module in modules])
    return torch.from_numpy(tokens), torch.from_numpy(positions)
