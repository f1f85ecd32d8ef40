"""Puts fused parts in the place of a model's own, each proven on rows of random numbers first."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from treeserve.cpu_layers.fused import AttentionCall, FusedAttention, FusedGatedLayer, OnePassNorm
from treeserve.cpu_layers.library import LayerLibrary
from treeserve.cpu_layers.linear import PanelLinear

_FAMILIES = ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Qwen3Moe", "Granite", "SmolLM3")
"""Whose parts are plain. Others may do what no probe would find out, such as clip large numbers."""
_NUM_ROWS = 5
_EQUAL_NUMBERS = 0.98
"""Of a norm's: sums in another order may round another way now and then, another formula often."""
_GATED_TOLERANCE = 2**-6
"""Of a gated layer's, in parts of the largest: their exponentials may round another way."""


@torch.inference_mode()
def fuse_layers(module: nn.Module, library: LayerLibrary) -> int:
    """Replace norms, gated layers and attention of plain families.

    Args:
        module: Whose attention is treeserve's already and whose linear layers are in panels, where
            they are to be joined; changed in place.
        library: Of the kernels.

    Returns:
        How many parts were replaced.
    """
    num_fused = 0
    # Norms first: those of an attention's heads are within it.
    for kind, fuse in (
        ("RMSNorm", _fuse_norm),
        ("MLP", _fuse_gated),
        ("Attention", _fuse_attention),
    ):
        names = [name for name, part in module.named_modules() if _is_plain(part, kind)]
        num_fused += sum(_replace(module, name, library, fuse) for name in names)
    return num_fused


def _is_plain(part: nn.Module, kind: str) -> bool:
    kinds = [f"{family}{kind}" for family in _FAMILIES]
    return (
        type(part).__name__ in kinds
        and type(part).__module__.startswith("transformers.models.")
        and not part._forward_hooks
        and not part._forward_pre_hooks
    )


def _replace(
    module: nn.Module,
    name: str,
    library: LayerLibrary,
    fuse: Callable[[Any, LayerLibrary], nn.Module | None],
) -> bool:
    fused = fuse(module.get_submodule(name), library)
    if fused is not None:
        module.set_submodule(name, fused)
    return fused is not None


def _fuse_norm(norm: Any, library: LayerLibrary) -> nn.Module | None:
    if norm.weight.dtype != torch.bfloat16 or norm.weight.device.type != "cpu":
        return None
    states = _random_rows(norm.weight.shape[0])
    # Rows so small that what is added to their mean counts.
    states = torch.cat([states, states * 1e-3])
    fused = OnePassNorm(norm, library)
    return fused if (fused(states) == norm(states)).float().mean() >= _EQUAL_NUMBERS else None


def _fuse_gated(layer: Any, library: LayerLibrary) -> nn.Module | None:
    if not _has_children(layer, {"gate_proj", "up_proj", "down_proj"}, {"act_fn"}):
        return None
    states = _random_rows(layer.gate_proj.in_features)
    expected = layer(states).float()
    fused = FusedGatedLayer(layer, library)
    largest_error = (fused(states).float() - expected).abs().max()
    return fused if largest_error <= _GATED_TOLERANCE * expected.abs().max() else None


def _fuse_attention(attention: Any, library: LayerLibrary) -> nn.Module | None:
    if not _has_children(attention, {"q_proj", "k_proj", "v_proj", "o_proj"}, {"q_norm", "k_norm"}):
        return None
    states = _random_rows(attention.q_proj.in_features)[None]
    turns = torch.linspace(0, 7, _NUM_ROWS * (attention.head_dim // 2)).view(1, _NUM_ROWS, -1)
    angles = torch.cat([turns, turns], dim=-1)
    rotation = angles.cos().bfloat16(), angles.sin().bfloat16()
    own, ours = _Call(), _Call()
    expected, _ = attention(
        hidden_states=states, position_embeddings=rotation, attention_mask=None, step=own
    )
    fused = FusedAttention(attention, own.as_call(), library)
    actual, _ = fused(hidden_states=states, position_embeddings=rotation, step=ours)
    pairs = zip((*own.tensors, expected), (*ours.tensors, actual), strict=True)
    return fused if all(torch.equal(a, b) for a, b in pairs) else None


def _has_children(part: nn.Module, linear: set[str], others: set[str]) -> bool:
    """Whether these are its children: those linear in panels, of one kind, and others perhaps."""
    children = dict(part.named_children())
    if not linear <= set(children) <= linear | others:
        return False
    layers = [children[name] for name in linear]
    is_quantized = {
        layer.packed.scales is not None if isinstance(layer, PanelLinear) else None
        for layer in layers
    }
    return len(is_quantized) == 1 and None not in is_quantized


class _Call:
    """Takes the place of treeserve's attention and keeps what it is called with."""

    def __init__(self) -> None:
        self.tensors: tuple[Tensor, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        self.tensors = (query.clone(), key.clone(), value.clone())
        self.options = options
        return query.contiguous()

    def as_call(self) -> AttentionCall:
        query, key, _ = self.tensors
        return AttentionCall(query.shape[1], key.shape[1], query.shape[2], self.options)


def _random_rows(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(_NUM_ROWS, size, generator=generator).bfloat16()
