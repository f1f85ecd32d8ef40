"""Loads a decoder from `transformers` and runs it over packed rows with treeserve's attention."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from treeserve.config import ModelConfig, QuantizationName
from treeserve.cpu_layers.pack import PackedLayers, check_quantization, is_packable, pack_model
from treeserve.errors import ConfigError, ModelError
from treeserve.model_digest import digest_model
from treeserve.model_place import resolve_model
from treeserve.output_head import OutputHead
from treeserve.parallel_model import check_parallel, parallel_arguments
from treeserve.probe import AttentionLayer, probe_model
from treeserve.step_relay import StepNotPassed, relay_step

ATTENTION_NAME = "treeserve"
SUPPORTED_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


class AttendRows(Protocol):
    """One layer's attention of one step: how the model calls back into treeserve."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        layer_index: int,
        scaling: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention output [num_rows, num_heads, head_dim].

        Args:
            query: [num_rows, num_heads, head_dim], rotated.
            key: [num_rows, num_kv_heads, head_dim], rotated.
            value: [num_rows, num_kv_heads, head_dim].
            layer_index: Which layer.
            scaling: Factor of the logits.
            window: A row sees this many tokens, its own among them; None is all.
            softcap: Logits become softcap * tanh(logits / softcap); None is as they are.
            sinks: [num_heads] logits that join each row's denominator, or None.
        """


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that is ready to run, and what the rest of the engine needs to know of it."""

    name: str
    module: PreTrainedModel
    head: OutputHead
    layers: tuple[AttentionLayer, ...]
    vocabulary_size: int
    max_positions: int
    end_token_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    digest: str | None = None
    """Of a module whose weights were packed, as they were before; None: they are as they were."""

    def forward(
        self, token_ids: Tensor, positions: Tensor, logits_rows: Tensor, attend: AttendRows
    ) -> Tensor:
        """Logits [num_logits, vocabulary_size] in the model's dtype of the rows that need them.

        Args:
            token_ids: [1, num_rows] int64.
            positions: [1, num_rows] int64.
            logits_rows: [num_logits] int64.
            attend: Called once per layer.
        """
        return _forward(self.module, token_ids, positions, logits_rows, attend)


def load_model(config: ModelConfig) -> LoadedModel:
    """Load a checkpoint and prove that treeserve's attention serves it.

    Raises:
        ModelError: It cannot be read, or cannot be served; says why.
    """
    check_model(config)
    # The probe compares the hook with the model's own eager attention, so that comes first.
    module = load_module(config, "eager")
    is_whole = config.tensor_parallel == 1
    return adopt_model(config.model, module, is_whole=is_whole, quantization=config.quantization)


def check_model(config: ModelConfig) -> None:
    """What can be known of a checkpoint by its configuration alone.

    Raises:
        ConfigError: It cannot be spread over so many ranks, or not be quantized; or there is no
            such device.
        ModelError: It cannot be read, or cannot be served; says why.
    """
    hf_config = _load_config(config.model, resolve_model(config.model))
    _refuse_unsupported(config.model, hf_config)
    check_parallel(config, hf_config)
    check_quantization(
        config.quantization, resolve_device(config.device), _known_dtype(config, hf_config)
    )


def read_max_positions(model: str) -> int:
    """How many positions a checkpoint has, by its configuration alone.

    Raises:
        ModelError: It cannot be read, or cannot be served; says why.
    """
    config = _load_config(model, resolve_model(model))
    _refuse_unsupported(model, config)
    max_positions: int = _text_config(config).max_position_embeddings
    return max_positions


def adopt_model(
    name: str,
    module: PreTrainedModel,
    *,
    is_whole: bool = True,
    quantization: QuantizationName = "none",
) -> LoadedModel:
    """A module of transformers, with its own eager attention, as a model that treeserve can run.

    Args:
        name: What to call it.
        module: In evaluation mode, on its device. Its attention is replaced, and on a CPU its
            linear layers in bfloat16 are, by packed ones; these may lie where their weights lay.
        is_whole: Not spread over ranks, where transformers changes the linear layers itself.
        quantization: Of its linear layers' weights.

    Raises:
        ConfigError: It cannot be quantized here; says why.
        ModelError: It cannot be served; says why.
    """
    _register_attention()
    digest, packed = None, PackedLayers(None)
    # First, so that what is probed is what runs, and nobody else holds a plain weight.
    if is_whole:
        digest = digest_model(module, quantization) if is_packable(module) else None
        packed = pack_model(module, quantization)
    layers = _attach_attention(name, module)
    packed.fuse(module)
    config = _text_config(module.config)
    return LoadedModel(
        name=name,
        module=module,
        head=OutputHead(module),
        layers=layers,
        vocabulary_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        end_token_ids=_end_token_ids(module),
        device=module.device,
        dtype=module.dtype,
        digest=digest,
    )


def resolve_device(name: str) -> torch.device:
    """The device that a device option stands for.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device; try cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not supported; try cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r} asked for, but PyTorch finds no CUDA device")
    return device


def _forward(
    module: PreTrainedModel,
    token_ids: Tensor,
    positions: Tensor,
    logits_rows: Tensor,
    attend: AttendRows,
) -> Tensor:
    output = module(
        input_ids=token_ids,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=logits_rows,
        step=attend,
    )
    logits: Tensor = output.logits
    return logits[0]


def _load_config(name: str, location: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(location)
    except Exception as error:
        where = "" if Path(location).is_dir() else f"there is no folder {name}, and on the hub: "
        raise ModelError(
            f"model: cannot read the configuration of {name}: {where}{error}"
        ) from error


def _known_dtype(config: ModelConfig, hf_config: PretrainedConfig) -> torch.dtype | None:
    """Before the weights are read; None: they will tell."""
    is_auto = config.dtype == "auto"
    dtype: torch.dtype | None = hf_config.dtype if is_auto else getattr(torch, config.dtype)
    return dtype


def load_module(config: ModelConfig, attention: str) -> PreTrainedModel:
    """A checkpoint as transformers has it, with an attention of its own.

    Raises:
        ModelError: It cannot be read; says why.
    """
    location = resolve_model(config.model)
    dtype: Any = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    device = resolve_device(config.device)
    try:
        module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=dtype,
            attn_implementation=attention,
            **parallel_arguments(config.tensor_parallel),
        )
    except Exception as error:
        raise ModelError(f"model: cannot load {config.model}: {error}") from error
    if config.tensor_parallel > 1:
        return module.eval()  # Every part of it was loaded to its place.
    return module.to(device).eval()


def _attach_attention(name: str, module: PreTrainedModel) -> tuple[AttentionLayer, ...]:
    try:
        return probe_model(name, module, ATTENTION_NAME, _forward)
    except StepNotPassed:
        relay_step(module)
        module.set_attn_implementation("eager")
        return probe_model(name, module, ATTENTION_NAME, _forward)


def _text_config(config: PretrainedConfig) -> Any:
    return config.get_text_config(decoder=True)


def _refuse_unsupported(name: str, config: PretrainedConfig) -> None:
    reason = _unsupported_reason(config)
    if reason:
        raise ModelError(f"model: {name} ({config.model_type}) cannot be served: {reason}")


def _unsupported_reason(config: PretrainedConfig) -> str | None:
    text = _text_config(config)
    if config.is_encoder_decoder:
        return "it is an encoder-decoder; treeserve serves decoder-only models"
    if getattr(text, "alibi", False):
        return "its ALiBi biases are not part of the pluggable attention"
    if getattr(text, "kv_lora_rank", None):
        return "its latent attention (MLA) keeps no per-head keys and values"
    if getattr(text, "max_position_embeddings", None) is None:
        return "its configuration states no max_position_embeddings"
    other = set(getattr(text, "layer_types", None) or ()) - SUPPORTED_LAYER_TYPES
    if other:
        return (
            f"its layers of type {', '.join(sorted(other))} keep other state than keys and values"
        )
    return _rope_reason(text)


def _rope_reason(text: Any) -> str | None:
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    types = {str(rope.get("rope_type")) for rope in (parameters, *nested)}
    varying = sorted(types & LENGTH_DEPENDENT_ROPE)
    if varying:
        return f"its {varying[0]} rotary positions change with the length of the batch"
    return None


def _end_token_ids(module: PreTrainedModel) -> frozenset[int]:
    generation = getattr(module, "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    if ids is None:
        ids = _text_config(module.config).eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)


def _register_attention() -> None:
    # And no mask function: the plan knows who sees what, and for a name without one transformers
    # builds no mask. With one it would first ask the device whether the row holds several texts.
    AttentionInterface.register(ATTENTION_NAME, _attention_hook)


def _attention_hook(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    *,
    step: AttendRows | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """The signature that transformers calls; tensors come as [1, heads, rows, head_dim]."""
    if step is None:
        raise StepNotPassed("the attention was called without a step")
    head_dim = query.shape[-1]
    output = step(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        layer_index=int(module.layer_idx),  # type: ignore[arg-type]
        scaling=head_dim**-0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return output[None], None
