"""A saved schema comes back bit for bit, and no changed or forged file does."""

import numpy as np
import pytest
import torch

from treeserve.errors import Damaged, NotPossible, Refused
from treeserve.kv_cache import LayerCache, LayerShape
from treeserve.prefixes.fingerprint import FORMAT_VERSION, Fingerprint
from treeserve.prefixes.saved_file import KVLimits, name_layers, seal
from treeserve.prefixes.saved_schema import SavedSchema, pack_schema, unpack_schema
from treeserve.scheduler.modules import Module

SHAPES = (LayerShape(2, 3), LayerShape(1, 4))
FINGERPRINT = Fingerprint(
    format_version=FORMAT_VERSION,
    model="m" * 64,
    tokenizer="t" * 64,
    dtype="bfloat16",
    layers="[[2, 3], [1, 4]]",
)
LIMITS = KVLimits(SHAPES, torch.bfloat16, vocabulary_size=100, max_tokens=20)
PML = '<schema name="s">ü<module name="a">b</module></schema>'


def made_up(num_tokens: int) -> list[LayerCache]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [
        LayerCache(*(torch.randn(num_tokens, *shape, generator=generator).bfloat16() for _ in "kv"))
        for shape in SHAPES
    ]


def module(length: int, start: int) -> Module:
    tokens = np.arange(length, dtype=np.int32) + 3
    return Module(f"m{start}", tokens, np.arange(start, start + length, dtype=np.int32))


MODULES = [module(3, 0), module(5, 3), module(1, 20)]
KV = [made_up(len(each)) for each in MODULES]
WHOLE = b"".join(pack_schema(PML, MODULES, KV, FINGERPRINT))


def opened(data: bytes) -> SavedSchema:
    return unpack_schema(data, FINGERPRINT, LIMITS)


def test_what_is_packed_comes_back_module_by_module():
    saved = opened(WHOLE)
    assert saved.pml == PML
    saved.check_modules(MODULES)
    for index, layers in enumerate(KV):
        for old, new in zip(layers, saved.module_layers(index), strict=True):
            assert torch.equal(old.k, new.k)
            assert torch.equal(old.v, new.v)


@pytest.mark.parametrize(
    "modules",
    [
        MODULES[:2],
        [MODULES[1], MODULES[0], MODULES[2]],
        [module(3, 1), *MODULES[1:]],
        [module(4, 0), module(4, 4), MODULES[2]],
    ],
)
def test_other_modules_than_those_saved_are_refused(modules):
    with pytest.raises(NotPossible, match="other tokens or positions"):
        opened(WHOLE).check_modules(modules)


def test_no_byte_can_change_unnoticed():
    for position in range(len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[position] ^= 0x20
        with pytest.raises(Damaged):
            opened(bytes(damaged))


def forged(**changes: torch.Tensor | None) -> bytes:
    """A file with a right checksum, as somebody who can write to the folder can make it."""
    layers = [
        LayerCache(torch.cat([kv[i].k for kv in KV]), torch.cat([kv[i].v for kv in KV]))
        for i in range(len(SHAPES))
    ]
    content = {
        "pml": torch.tensor(list(PML.encode()), dtype=torch.uint8),
        "lengths": torch.tensor([3, 5, 1], dtype=torch.int32),
        "tokens": torch.arange(9, dtype=torch.int32),
        "positions": torch.arange(9, dtype=torch.int32),
        **name_layers(layers),
    }
    content |= {name.replace("_", "."): value for name, value in changes.items()}
    tensors = {name: value for name, value in content.items() if value is not None}
    return b"".join(seal(tensors, FINGERPRINT, {}))


def test_a_forgery_with_the_right_content_passes():
    assert opened(forged()).lengths == (3, 5, 1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"pml": None}, "no pml"),
        ({"pml": torch.tensor([255, 255], dtype=torch.uint8)}, "no text"),
        ({"lengths": torch.tensor([9, 0], dtype=torch.int32)}, "do not add up"),
        ({"lengths": torch.tensor([12, -3], dtype=torch.int32)}, "do not add up"),
        ({"lengths": torch.tensor([3, 5], dtype=torch.int32)}, "do not add up"),
        ({"lengths": torch.tensor([9])}, "no lengths"),
        ({"positions": torch.arange(8, dtype=torch.int32)}, "do not add up"),
        ({"positions": torch.arange(9, dtype=torch.int32)[None].clone()}, "no positions"),
        ({"layer_1_v": None}, "a layer is missing"),
        ({"layer_0_k": torch.zeros(9, 2, 3)}, "layer 0 has another shape"),
        (
            {"layer_0_k": torch.full((9, 2, 3), float("nan"), dtype=torch.bfloat16)},
            "not all numbers",
        ),
    ],
)
def test_content_that_would_break_the_engine_is_refused_even_with_a_right_checksum(changes, text):
    with pytest.raises(Refused, match=text):
        opened(forged(**changes))
