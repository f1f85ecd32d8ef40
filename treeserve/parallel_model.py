"""Which models can be spread over ranks, by transformers' own plan, and how they are loaded so."""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig

from treeserve.config import ModelConfig
from treeserve.errors import ConfigError, ModelError


def check_ranks(tensor_parallel: int, device: torch.device) -> None:
    """Check what can be known before any process is started.

    Raises:
        ConfigError: There are fewer GPUs, or a package is missing.
    """
    if tensor_parallel == 1:
        return
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError(
            "tensor_parallel: transformers needs accelerate to spread a model; "
            "pip install 'treeserve[tensor-parallel]'"
        )
    if device.type == "cpu" and torch.cuda.is_available():
        raise ConfigError(
            "tensor_parallel: transformers spreads a model over the GPUs where there are any; for "
            "device cpu hide them, with CUDA_VISIBLE_DEVICES="
        )
    if ":" in str(device):
        raise ConfigError(
            f"device: {device} names one GPU, and every rank has its own; say cuda, and choose "
            "with CUDA_VISIBLE_DEVICES"
        )
    num_devices = torch.cuda.device_count()
    if device.type == "cuda" and num_devices < tensor_parallel:
        raise ConfigError(
            f"tensor_parallel: {tensor_parallel} ranks need as many GPUs, and there are "
            f"{num_devices}"
        )


def check_parallel(config: ModelConfig, hf_config: PretrainedConfig) -> None:
    """Check that a checkpoint can be spread over so many ranks.

    Raises:
        ConfigError: Not over so many; says how many would do.
        ModelError: Over no number of them.
    """
    size, text = config.tensor_parallel, hf_config.get_text_config(decoder=True)
    if size == 1:
        return
    if not getattr(text, "base_model_tp_plan", None):
        raise ModelError(
            f"model: {config.model} ({text.model_type}) cannot be spread over ranks: transformers "
            "has no tensor-parallel plan for it"
        )
    num_heads = text.num_attention_heads
    num_kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    if num_kv_heads % size or num_heads % size:
        fitting = [n for n in range(1, num_kv_heads + 1) if not (num_kv_heads % n or num_heads % n)]
        raise ConfigError(
            f"tensor_parallel: {size} does not divide the {num_kv_heads} KV heads and {num_heads} "
            f"heads of {config.model}; try {' or '.join(map(str, fitting))}"
        )


def parallel_arguments(tensor_parallel: int) -> dict[str, Any]:
    """What from_pretrained takes for it, on every rank; the process group is there."""
    if tensor_parallel == 1:
        return {}
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=tensor_parallel)}


def local_part(weight: Tensor) -> Tensor:
    """What of a weight lies here: all of it, where it is not spread. Asks no other rank."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
