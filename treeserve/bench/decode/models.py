"""Models with random weights in well-known shapes, made on the device and never saved."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from treeserve.config import QuantizationName
from treeserve.errors import ModelError
from treeserve.model import LoadedModel, adopt_model

SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
    "qwen-0.5b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 4864,
        "vocab_size": 151936,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "mha-30m": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 1408,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 256,
        "vocab_size": 512,
    },
}
_MAX_POSITIONS = 131_072
_GAIN = 1.28
"""Of a matrix of random weights on vectors of ones: large enough for attention to decide tokens."""


def model_config(shape: str) -> PretrainedConfig:
    """The configuration of one of SHAPES, or of a folder or file that holds one.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    if shape not in SHAPES:
        return _read_config(shape)
    sizes = {"model_type": "llama", "tie_word_embeddings": False, **SHAPES[shape]}
    return AutoConfig.for_model(
        **sizes,
        max_position_embeddings=_MAX_POSITIONS,
        initializer_range=_GAIN / sizes["hidden_size"] ** 0.5,
        rope_parameters={"rope_theta": 500_000.0, "rope_type": "default"},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def make_random_model(
    shape: str,
    dtype: torch.dtype,
    device: torch.device,
    quantization: QuantizationName = "none",
) -> LoadedModel:
    """A model with random weights, always the same ones on the same device.

    Args:
        shape: As for model_config.
        dtype: Of the weights.
        device: On which they are made.
        quantization: Of linear layers' weights.

    Raises:
        ConfigError: It cannot be quantized here.
        ModelError: It cannot be read or served.
    """
    module = make_random_module(shape, dtype, device, "eager")
    return adopt_model(f"random {shape}", module, quantization=quantization)


def make_random_module(
    shape: str, dtype: torch.dtype, device: torch.device, attention: str
) -> PreTrainedModel:
    """The same as transformers has it, with an attention of its own."""
    # Without memory first: a head that is tied to the embeddings would be made beside them.
    with torch.device("meta"):
        module: PreTrainedModel = AutoModelForCausalLM.from_config(
            model_config(shape), dtype=dtype, attn_implementation=attention
        )
    module.to_empty(device=device)
    module.tie_weights()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(0)
        module.initialize_weights()
    return module.eval()


def _read_config(place: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(place, local_files_only=True)
    except Exception as error:
        raise ModelError(f"shape: cannot read the configuration of {place}: {error}") from error
