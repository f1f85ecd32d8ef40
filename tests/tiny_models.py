"""Tiny random checkpoints of every family that treeserve serves, with a tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY_SIZE = 320
SLIDING_WINDOW = 24

_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
_SLIDING: dict[str, Any] = {
    "sliding_window": SLIDING_WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
_NO_ROPE_DICT = {"rope_theta": 10_000.0, "rope_type": "default"}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {**_MOE, "num_experts": 4, "norm_topk_prob": True},
    "mistral": {"sliding_window": SLIDING_WINDOW},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {**_SLIDING, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**_SLIDING, "query_pre_attn_scalar": 16},
    "phi3": {"sliding_window": SLIDING_WINDOW},
    "gpt_neox": {"num_key_value_heads": 4},
    "cohere": {},
    "granite": {"attention_multiplier": 0.3},
    "olmo": {},
    "stablelm": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "gpt_oss": {**_SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""The sixteen families, each with what makes its attention its own."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes: token 0 ends a text, token 1 + b is byte b."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_of)
    vocabulary = {"<end>": 0, **{symbol: 1 + i for i, symbol in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def make_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model whose weights are large enough for attention to matter."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**_BASE, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_checkpoint(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a checkpoint that loads like any other."""
    make_model(family, seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def _byte_of(symbol: str) -> int:
    decode: Callable[[list[str]], str] = decoders.ByteLevel().decode
    text = decode([symbol])
    return text.encode("utf-8")[0] if text != "\ufffd" else 256 + ord(symbol)
