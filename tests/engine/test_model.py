"""A model that the hook cannot serve is refused at load, by name and reason."""

from pathlib import Path

import pytest
import tiny_models
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from treeserve import LLM
from treeserve.config import ModelConfig
from treeserve.errors import ConfigError, ModelError
from treeserve.model import load_model

SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def save_random(folder: Path, model_type: str, **options) -> str:
    config = AutoConfig.for_model(model_type, **{**SMALL, **options})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "options", "reason"),
    [
        ("bloom", {"n_head": 4, "n_layer": 2}, "bloom"),
        ("mamba", {}, "mamba"),
        (
            "deepseek_v3",
            {"kv_lora_rank": 16, "q_lora_rank": 16, "n_routed_experts": 4, "n_group": 1,
             "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
             "num_key_value_heads": 4, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
             "v_head_dim": 16, "first_k_dense_replace": 1},
            "MLA",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "change with the length",
        ),
    ],
)  # fmt: skip
def test_refused_by_name_and_reason(tmp_path, model_type, options, reason):
    model = save_random(tmp_path, model_type, **options)
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(ModelConfig(model=model))
    assert model in str(caught.value)
    assert "\n" not in str(caught.value).split("cannot be served")[0]


def test_an_encoder_decoder_is_refused(tmp_path):
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_model(ModelConfig(model=str(tmp_path)))


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        LLM(str(tmp_path))


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        LLM(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dtype": "float8"}, "dtype"),
        ({"backend": "magic"}, "backend"),
        ({"sharing": "maybe"}, "sharing"),
        ({"device": "quantum"}, "device"),
        ({"device": "cuda"}, "device"),
        ({"page_size": 0}, "page_size"),
        ({"num_pages": 0}, "num_pages"),
        ({"token_budget": -1}, "token_budget"),
    ],
)
def test_options_out_of_range_are_named(options, field):
    with pytest.raises(ConfigError, match=f"^{field}: "):
        LLM("embedded", **options)


def test_bfloat16_runs(checkpoint_of):
    llm = LLM(str(checkpoint_of("llama")), dtype="bfloat16", num_pages=64)
    [result] = llm.generate("some text")
    assert result.usage.completion_tokens > 0


def test_the_tokenizer_of_the_tests_maps_bytes():
    assert tiny_models.byte_tokenizer()("az")["input_ids"] == [1 + ord("a"), 1 + ord("z")]
