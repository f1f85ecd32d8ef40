"""A saved prefix comes back bit for bit, and no changed, cut or foreign file does."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from treeserve.errors import Damaged, NotPossible, Refused
from treeserve.kv_cache import LayerCache, LayerShape
from treeserve.prefixes.fingerprint import FORMAT_VERSION, Fingerprint
from treeserve.prefixes.saved_file import KVLimits, SavedKV, pack, unpack

SHAPES = (LayerShape(2, 3), LayerShape(1, 4))
FINGERPRINT = Fingerprint(
    format_version=FORMAT_VERSION,
    model="m" * 64,
    tokenizer="t" * 64,
    dtype="bfloat16",
    layers="[[2, 3], [1, 4]]",
)
LIMITS = KVLimits(SHAPES, torch.bfloat16, vocabulary_size=100, max_tokens=20)


def made_up(num_tokens: int = 7) -> SavedKV:
    generator = torch.Generator().manual_seed(num_tokens)

    def values(shape: LayerShape) -> torch.Tensor:
        return torch.randn(num_tokens, *shape, generator=generator).bfloat16()

    tokens = np.arange(num_tokens, dtype=np.int32) * 3
    return SavedKV(tokens, [LayerCache(values(shape), values(shape)) for shape in SHAPES])


def whole(saved: SavedKV, fingerprint: Fingerprint) -> bytes:
    return b"".join(pack(saved, fingerprint))


WHOLE = whole(made_up(), FINGERPRINT)


@pytest.mark.parametrize("num_tokens", [1, 2, 19, 20])
def test_what_is_packed_comes_back_bit_for_bit(num_tokens):
    saved = made_up(num_tokens)
    back = unpack(whole(saved, FINGERPRINT), FINGERPRINT, LIMITS)
    assert back.tokens.tolist() == saved.tokens.tolist()
    for old, new in zip(saved.layers, back.layers, strict=True):
        assert torch.equal(old.k.view(torch.int16), new.k.view(torch.int16))
        assert torch.equal(old.v.view(torch.int16), new.v.view(torch.int16))


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_no_byte_can_change_unnoticed(mask):
    """Length, header, checksum, padding, tokens, keys and values: every byte of the file."""
    for position in range(len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[position] ^= mask
        with pytest.raises(Damaged):
            unpack(bytes(damaged), FINGERPRINT, LIMITS)


def test_no_part_of_a_file_passes_for_all_of_it():
    for length in range(len(WHOLE)):
        with pytest.raises(Damaged):
            unpack(WHOLE[:length], FINGERPRINT, LIMITS)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(Damaged):
        unpack(data, FINGERPRINT, LIMITS)


@given(st.data())
@settings(max_examples=200)
def test_any_other_content_between_the_same_ends_is_refused(data):
    start = data.draw(st.integers(0, len(WHOLE)))
    end = data.draw(st.integers(start, len(WHOLE)))
    changed = WHOLE[:start] + data.draw(st.binary(max_size=50)) + WHOLE[end:]
    if changed != WHOLE:
        with pytest.raises(Damaged):
            unpack(changed, FINGERPRINT, LIMITS)


@pytest.mark.parametrize("name", ["format_version", "model", "tokenizer", "dtype", "layers"])
def test_a_file_of_another_engine_is_refused_with_what_differs(name):
    other = Fingerprint(**(FINGERPRINT.as_metadata() | {name: "other"}))
    with pytest.raises(NotPossible, match=f"its {name} differs"):
        unpack(whole(made_up(), other), FINGERPRINT, LIMITS)


def forged(tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> bytes:
    """A file with a right checksum, as somebody who can write to the folder can make it."""
    import treeserve.prefixes.saved_file as module

    saved = made_up()
    content = {"tokens": torch.from_numpy(saved.tokens)}
    for index, layer in enumerate(saved.layers):
        content[f"layer.{index}.k"], content[f"layer.{index}.v"] = layer
    content |= tensors or {}
    content = {name: value for name, value in content.items() if value.numel()}
    given_metadata = FINGERPRINT.as_metadata() | {"positions": "0:7", "checksum": "0" * 64}
    data = bytearray(save(content, given_metadata | metadata))
    place = module._find_checksum(data)
    data[place.start(1) : place.end(1)] = module._checksum(data, place).encode()
    return bytes(data)


NOTHING = torch.zeros(0)
KV = torch.zeros(7, 2, 3, dtype=torch.bfloat16)
TOKENS = torch.arange(7, dtype=torch.int32)


def test_a_forgery_with_the_right_content_passes():
    """The checksum guards against damage, not against those who can write to the folder."""
    assert len(unpack(forged(), FINGERPRINT, LIMITS).tokens) == 7


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"tokens": NOTHING}, "no tokens"),
        ({"tokens": TOKENS.long()}, "no tokens"),
        ({"tokens": TOKENS[None].clone()}, "no tokens"),
        ({"tokens": TOKENS + 94}, "vocabulary"),
        ({"tokens": TOKENS - 1}, "vocabulary"),
        ({"layer.1.v": NOTHING}, "a layer is missing"),
        ({"layer.2.k": KV.clone()}, "one too many"),
        ({"layer.0.k": KV[:6].clone()}, "layer 0 has another shape"),
        ({"layer.0.k": KV.float()}, "layer 0 has another shape"),
        ({"layer.0.k": KV.transpose(1, 2).contiguous()}, "layer 0 has another shape"),
        ({"layer.0.v": KV + float("nan")}, "not all numbers"),
        ({"layer.0.v": KV + float("inf")}, "not all numbers"),
    ],
)
def test_content_that_would_break_the_engine_is_refused_even_with_a_right_checksum(tensors, text):
    with pytest.raises(Refused, match=text):
        unpack(forged(tensors), FINGERPRINT, LIMITS)


@pytest.mark.parametrize("positions", ["1:8", "0:8", "", "0:7 "])
def test_other_positions_are_refused(positions):
    with pytest.raises(NotPossible, match="positions"):
        unpack(forged(positions=positions), FINGERPRINT, LIMITS)


def test_more_tokens_than_the_model_takes_are_refused():
    limits = KVLimits(SHAPES, torch.bfloat16, vocabulary_size=100, max_tokens=6)
    with pytest.raises(NotPossible, match="7 tokens; this model takes 6"):
        unpack(WHOLE, FINGERPRINT, limits)


def test_a_second_checksum_in_the_header_is_no_way_around_the_first():
    data = save({"tokens": TOKENS}, {"checksum": "0" * 64, "x": '"checksum":"' + "0" * 64 + '"'})
    with pytest.raises(Damaged):
        unpack(data, FINGERPRINT, LIMITS)


def test_a_header_nested_without_end_is_refused():
    header = b'{"checksum":"' + b"0" * 64 + b'","x":' + b"[" * 100_000 + b"}"
    data = len(header).to_bytes(8, "little") + header
    import treeserve.prefixes.saved_file as module

    place = module._find_checksum(data)
    right = module._checksum(data, place).encode()
    with pytest.raises(Damaged, match="header cannot be read"):
        unpack(data.replace(b"0" * 64, right), FINGERPRINT, LIMITS)


def test_the_file_is_a_safetensors_file_like_any_other():
    length = int.from_bytes(WHOLE[:8], "little")
    header = json.loads(WHOLE[8 : 8 + length])
    assert header["__metadata__"]["positions"] == "0:7"
    assert header["layer.0.k"]["shape"] == [7, 2, 3]
