"""Proves at load that treeserve's attention computes what the model's own does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treeserve.errors import ModelError
from treeserve.step_relay import StepNotPassed

NUM_PROBE_TOKENS = 8
TOLERANCES = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """What one layer stores per token."""

    num_kv_heads: int
    head_dim: int
    num_heads: int
    window: int | None
    """Of sliding-window layers: how many tokens a row sees, its own among them."""
    softcap: float | None = None
    """Logits are capped softly at this; None: as they are."""


ForwardFunction = Callable[..., Tensor]


def probe_model(
    name: str, module: PreTrainedModel, attention_name: str, forward: ForwardFunction
) -> tuple[AttentionLayer, ...]:
    """Switch the model to treeserve's attention, run a few rows both ways, and compare.

    The rows go through the hook in reverse order with explicit positions, so that a model that
    ignores positions, masks by itself or never calls the hook is found out.

    Args:
        name: What to call the model in errors.
        module: Loaded with its own eager attention; left with treeserve's.
        attention_name: Under which treeserve's attention is registered.
        forward: (module, token_ids, positions, logits_rows, attend) -> logits.

    Returns:
        The shape of each layer.

    Raises:
        StepNotPassed: Its layers drop the argument that carries the step.
        ModelError: It differs, or does not use the hook; says how.
    """
    token_ids = _probe_tokens(module)
    expected = _eager_logits(module, token_ids)
    recorder = _Recorder(_positions(token_ids).flip(-1)[0])
    try:
        module.set_attn_implementation(attention_name)
        with torch.inference_mode():
            rows = torch.arange(token_ids.shape[-1], device=token_ids.device)
            actual = forward(
                module, token_ids.flip(-1), _positions(token_ids).flip(-1), rows, recorder
            ).float()
    except StepNotPassed:
        raise
    except Exception as error:
        raise _refusal(name, module, f"its attention is not pluggable: {error}") from error
    reason = recorder.reason(_num_layers(module), _sliding_layers(module))
    if reason is None and not _close(actual.flip(0), expected, module.dtype):
        reason = "its logits through the pluggable attention differ from its own"
    if reason is not None:
        raise _refusal(name, module, reason)
    return tuple(recorder.layers[index] for index in range(len(recorder.layers)))


class _Recorder:
    """Ordinary attention over the probe's own rows, which notes what each layer passes."""

    def __init__(self, positions: Tensor) -> None:
        self._positions = positions
        self.layers: dict[int, AttentionLayer] = {}
        self.mismatched_layers: list[int] = []

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
        if key.shape != value.shape:
            self.mismatched_layers.append(layer_index)
        self.layers[layer_index] = AttentionLayer(
            num_kv_heads=key.shape[1],
            head_dim=key.shape[2],
            num_heads=query.shape[1],
            window=window,
            softcap=softcap,
        )
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, dim=1).float() for x in (key, value))
        logits = torch.einsum("qhd,khd->hqk", query.float(), key) * scaling
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        distance = self._positions[:, None] - self._positions[None, :]
        visible = (distance >= 0) & (distance < (window or len(self._positions)))
        logits = logits.masked_fill(~visible, -torch.inf)
        if sinks is not None:
            column = sinks.float()[:, None, None].expand(-1, logits.shape[1], 1)
            logits = torch.cat([logits, column], dim=-1)
        weights = logits.softmax(dim=-1)[..., : key.shape[0]]
        return torch.einsum("hqk,khd->qhd", weights, value).to(query.dtype)

    def reason(self, num_layers: int, sliding_layers: frozenset[int]) -> str | None:
        """Why the model cannot be served, as far as the calls tell; None: no reason."""
        if sorted(self.layers) != list(range(num_layers)):
            return f"{len(self.layers)} of its {num_layers} layers use the pluggable attention"
        if self.mismatched_layers:
            return "its keys and values have different shapes"
        unknown = [i for i in sorted(sliding_layers) if self.layers[i].window is None]
        if unknown:
            return f"layer {unknown[0]} slides its window in a mask that treeserve does not see"
        return None


def _refusal(name: str, module: PreTrainedModel, reason: str) -> ModelError:
    return ModelError(f"model: {name} ({module.config.model_type}) cannot be served: {reason}")


def _text_config(module: PreTrainedModel) -> Any:
    return module.config.get_text_config(decoder=True)


def _num_layers(module: PreTrainedModel) -> int:
    return int(_text_config(module).num_hidden_layers)


def _sliding_layers(module: PreTrainedModel) -> frozenset[int]:
    types = getattr(_text_config(module), "layer_types", None) or ()
    return frozenset(i for i, kind in enumerate(types) if kind == "sliding_attention")


def _probe_tokens(module: PreTrainedModel) -> Tensor:
    config = _text_config(module)
    length = min(NUM_PROBE_TOKENS, int(config.max_position_embeddings))
    ids = torch.arange(length) * 7919 % int(config.vocab_size)
    return ids.to(module.device)[None]


def _positions(token_ids: Tensor) -> Tensor:
    return torch.arange(token_ids.shape[-1], device=token_ids.device)[None]


def _eager_logits(module: PreTrainedModel, token_ids: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = module(input_ids=token_ids, use_cache=False).logits
    return logits[0].float()


def _close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    scale = max(1.0, float(expected.abs().max()))
    return float((actual - expected).abs().max()) <= TOLERANCES[dtype] * scale
