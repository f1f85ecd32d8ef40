"""Engines that compute other KV have other fingerprints, and equal ones equal fingerprints."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from treeserve.building import BuiltEngine, build_engine
from treeserve.config import EngineOptions
from treeserve.prefixes.fingerprint import Fingerprint, make_fingerprint


@pytest.fixture(scope="module")
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=4)


def fingerprint_of(built: BuiltEngine) -> Fingerprint:
    return make_fingerprint(built.model, built.prompter.tokenizer, built.kv_cache)


def test_the_same_checkpoint_has_the_same_fingerprint_whatever_backend_computes(options):
    first = fingerprint_of(build_engine(options))
    other = replace(options, backend="reference", num_pages=8, page_size=4)
    assert fingerprint_of(build_engine(other)) == first


def test_another_dtype_is_told_by_its_name(options):
    first = fingerprint_of(build_engine(options))
    second = fingerprint_of(build_engine(replace(options, dtype="bfloat16")))
    assert "dtype" in first.differences(second.as_metadata())


def test_any_weight_that_changed_all_over_is_noticed(options):
    built = build_engine(options)
    first = fingerprint_of(built)
    for weight in built.model.module.state_dict().values():
        before = weight.clone()
        weight += 1
        assert first.differences(fingerprint_of(built).as_metadata()) == ["model"]
        weight.copy_(before)
    assert fingerprint_of(built) == first


def test_a_weight_that_is_packed_for_a_cpu_is_noticed_too(options, tmp_path):
    """Packed weights are in no state_dict; two checkpoints may differ in them alone."""
    bfloat16 = replace(options, dtype="bfloat16")
    first = fingerprint_of(build_engine(bfloat16))
    assert fingerprint_of(build_engine(bfloat16)) == first
    model = LlamaForCausalLM.from_pretrained(options.model)
    model.model.layers[0].mlp.down_proj.weight.data += 1
    folder = tmp_path / "tuned"
    shutil.copytree(options.model, folder)
    model.save_pretrained(folder)
    tuned = fingerprint_of(build_engine(replace(bfloat16, model=str(folder))))
    assert tuned.differences(first.as_metadata()) == ["model"]


def test_another_way_to_rotate_is_another_model(options):
    built = build_engine(options)
    first = fingerprint_of(built)
    built.model.module.config.rope_parameters = {"rope_type": "default", "rope_theta": 5e5}
    assert first.differences(fingerprint_of(built).as_metadata()) == ["model"]


def test_texts_with_other_ids_have_another_tokenizer(options):
    built = build_engine(options)
    first = fingerprint_of(built)
    built.prompter.tokenizer._tokenizer.add_tokens(["treeserve"])
    assert first.differences(fingerprint_of(built).as_metadata()) == ["tokenizer"]


def test_large_weights_are_sampled_at_both_ends(options):
    built = build_engine(options)
    first = fingerprint_of(built)
    weight = max(built.model.module.state_dict().values(), key=torch.numel)
    assert weight.numel() > 256
    for index in (0, -1):
        before = weight.view(-1)[index].clone()
        weight.view(-1)[index] += 1
        assert fingerprint_of(built) != first
        weight.view(-1)[index] = before
