"""The file of a saved prefix: its tokens and their KV in every layer, checked to the last byte."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from treeserve.errors import Damaged, NotPossible
from treeserve.kv_cache import LayerCache, LayerShape
from treeserve.prefixes.fingerprint import Fingerprint
from treeserve.scheduler.step import Int32Array

MAX_HEADER_BYTES = 1 << 20
_LENGTH_BYTES = 8
_NO_CHECKSUM = "0" * 64
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True, eq=False)
class SavedKV:
    """Tokens from position 0 on, and what the cache holds of them."""

    tokens: Int32Array
    """[num_tokens]"""
    layers: list[LayerCache]
    """For each layer [num_tokens, num_kv_heads, head_dim], in host memory."""


@dataclass(frozen=True, slots=True)
class KVLimits:
    """What a prefix of this engine can be at most."""

    layer_shapes: tuple[LayerShape, ...]
    dtype: torch.dtype
    vocabulary_size: int
    max_tokens: int


def pack(saved: SavedKV, fingerprint: Fingerprint) -> list[memoryview]:
    """The content of the file, piece by piece, as `seal` writes it, with its positions."""
    tensors: dict[str, Tensor] = {"tokens": torch.from_numpy(saved.tokens.copy())}
    metadata = {"positions": f"0:{len(saved.tokens)}"}
    return seal(tensors | name_layers(saved.layers), fingerprint, metadata)


def unpack(data: bytes, fingerprint: Fingerprint, limits: KVLimits) -> SavedKV:
    """What a file holds, if it is whole and fits this engine; nothing of it is executed.

    Raises:
        Damaged: It is not what was written, or no saved prefix at all.
        NotPossible: It is another engine's; says in what.
    """
    tensors, metadata = unseal(data, fingerprint, "prefix")
    tokens = _take_tokens(tensors, limits)
    if metadata.get("positions") != f"0:{len(tokens)}":
        raise NotPossible(
            f"the saved prefix is for positions {metadata.get('positions')}, not for those of a "
            f"prefix of {len(tokens)} tokens"
        )
    return SavedKV(tokens, take_layers(tensors, limits, len(tokens), "prefix"))


def seal(
    tensors: dict[str, Tensor], fingerprint: Fingerprint, metadata: Mapping[str, str]
) -> list[memoryview]:
    """Tensors in the safetensors format, piece by piece.

    Its metadata hold the fingerprint, what is given, and a SHA-256 over all bytes of the file, in
    which the checksum's own digits count as zeros. It guards against damage, not against somebody
    who can write to the folder.
    """
    data = save(tensors, {**fingerprint.as_metadata(), **metadata, "checksum": _NO_CHECKSUM})
    place, view = _find_checksum(data, "file"), memoryview(data)
    checksum = memoryview(_checksum(data, place).encode())
    return [view[: place.start(1)], checksum, view[place.end(1) :]]


def unseal(
    data: bytes, fingerprint: Fingerprint, what: str
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors and metadata of a file, if it is whole and this engine's.

    Args:
        data: All of the file.
        fingerprint: Of this engine.
        what: Was saved, for errors.

    Raises:
        Damaged: It is not what was written.
        NotPossible: It is another engine's; says in what.
    """
    place = _find_checksum(data, what)
    if not hmac.compare_digest(_checksum(data, place).encode(), place.group(1)):
        raise Damaged(f"the saved {what} is damaged: its checksum is not that of its content")
    metadata = _read_metadata(data, what)
    differences = fingerprint.differences(metadata)
    if differences:
        raise NotPossible(
            f"the saved {what} does not fit this server: its {', '.join(differences)} "
            f"{'differs' if len(differences) == 1 else 'differ'}"
        )
    try:
        return load(data), metadata
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"the saved {what} is damaged: {error}") from None


def name_layers(layers: Sequence[LayerCache]) -> dict[str, Tensor]:
    """Keys and values by the names that they have in a file."""
    tensors: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        tensors[f"layer.{index}.k"], tensors[f"layer.{index}.v"] = layer
    return tensors


def take_layers(
    tensors: dict[str, Tensor], limits: KVLimits, num_tokens: int, what: str
) -> list[LayerCache]:
    """The keys and values of so many tokens; raises Damaged where they are none of this engine."""
    names = {f"layer.{i}.{part}" for i in range(len(limits.layer_shapes)) for part in "kv"}
    if tensors.keys() != names:
        raise Damaged(f"the saved {what} is damaged: a layer is missing, or one too many")
    layers = []
    for index, shape in enumerate(limits.layer_shapes):
        layer = LayerCache(tensors[f"layer.{index}.k"], tensors[f"layer.{index}.v"])
        for tensor in layer:
            if tensor.shape != (num_tokens, *shape) or tensor.dtype != limits.dtype:
                raise Damaged(f"the saved {what} is damaged: layer {index} has another shape")
            if not bool(torch.isfinite(tensor).all()):
                raise Damaged(f"the saved {what} is damaged: layer {index} is not all numbers")
        layers.append(layer)
    return layers


def _find_checksum(data: bytes | bytearray, what: str = "prefix") -> "re.Match[bytes]":
    """Where the header says what the checksum is, in the one place where it may."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or length > min(MAX_HEADER_BYTES, len(data) - _LENGTH_BYTES):
        raise Damaged(f"the saved {what} is damaged: it ends before its header does")
    found = list(_CHECKSUM.finditer(data, _LENGTH_BYTES, _LENGTH_BYTES + length))
    if len(found) != 1:
        raise Damaged(f"the saved {what} is damaged, or no saved {what}: it has no checksum")
    return found[0]


def _checksum(data: bytes | bytearray, place: "re.Match[bytes]") -> str:
    view = memoryview(data)
    digest = hashlib.sha256(view[: place.start(1)])
    digest.update(_NO_CHECKSUM.encode())
    digest.update(view[place.end(1) :])
    return digest.hexdigest()


def _read_metadata(data: bytes, what: str) -> dict[str, Any]:
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        metadata = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise Damaged(f"the saved {what} is damaged: its header cannot be read")
    return metadata


def _take_tokens(tensors: dict[str, Tensor], limits: KVLimits) -> Int32Array:
    tokens = tensors.pop("tokens", None)
    if tokens is None or tokens.dtype != torch.int32 or tokens.ndim != 1 or not len(tokens):
        raise Damaged("the saved prefix is damaged: it has no tokens")
    if len(tokens) > limits.max_tokens:
        raise NotPossible(
            f"the saved prefix has {len(tokens)} tokens; this model takes {limits.max_tokens}"
        )
    ids: Int32Array = tokens.numpy().astype(np.int32)
    if ids.min() < 0 or ids.max() >= limits.vocabulary_size:
        raise Damaged("the saved prefix is damaged: a token is outside the vocabulary")
    return ids
