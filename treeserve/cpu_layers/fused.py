"""Norms, gated layers and attention of plain families, each with fewer passes over its rows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from treeserve.cpu_layers.library import LayerLibrary
from treeserve.cpu_layers.linear import GatedPanels, join_layers
from treeserve.step_relay import StepNotPassed

_MOST_GATED_ROWS = 512
"""At a time: what is between their products stays in a cache, and takes little memory."""


class OnePassNorm(nn.Module):
    """RMSNorm as transformers has it, rounding and all, in one pass instead of six.

    Args:
        norm: With `weight` and `variance_epsilon`.
        library: Of the kernels.
    """

    def __init__(self, norm: Any, library: LayerLibrary) -> None:
        super().__init__()
        self.weight: nn.Parameter = norm.weight
        self.variance_epsilon = float(norm.variance_epsilon)
        self._library = library

    def forward(self, states: Tensor) -> Tensor:
        """[..., size] of states [..., size]."""
        return self._library.normalise(states.contiguous(), self.weight, self.variance_epsilon)


class FusedGatedLayer(nn.Module):
    """down(silu(gate(x)) * up(x)) with gate and up as one product, some rows after the other.

    Args:
        layer: With `gate_proj`, `up_proj` and `down_proj` in panels.
        library: Of the kernels.
    """

    def __init__(self, layer: Any, library: LayerLibrary) -> None:
        super().__init__()
        self.gate_up_proj = GatedPanels(layer.gate_proj, layer.up_proj, library)
        self.down_proj = layer.down_proj

    def forward(self, states: Tensor) -> Tensor:
        """[..., hidden_size] of states [..., hidden_size]."""
        rows = states.flatten(0, -2)
        if len(rows) <= _MOST_GATED_ROWS:
            result: Tensor = self.down_proj(self.gate_up_proj(states))
            return result
        result = torch.empty_like(rows)
        for first in range(0, len(rows), _MOST_GATED_ROWS):
            piece = rows[first : first + _MOST_GATED_ROWS]
            result[first : first + len(piece)] = self.down_proj(self.gate_up_proj(piece))
        return result.view(states.shape)


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """How a layer calls treeserve's attention, in every step alike."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    options: dict[str, Any]
    """The arguments with names, as `treeserve.model.AttendRows` has them."""


class FusedAttention(nn.Module):
    """A layer's attention with Q, K and V as one product, rotated where they lie.

    Args:
        attention: With `q_proj`, `k_proj`, `v_proj` and `o_proj` in panels, and perhaps `q_norm`
            and `k_norm` of single heads.
        call: How it calls treeserve's attention.
        library: Of the kernels.
    """

    def __init__(self, attention: Any, call: AttentionCall, library: LayerLibrary) -> None:
        super().__init__()
        layers = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.qkv_proj = join_layers(layers, library)
        self.o_proj = attention.o_proj
        self.q_norm = getattr(attention, "q_norm", None)
        self.k_norm = getattr(attention, "k_norm", None)
        self.layer_idx: int = attention.layer_idx
        self._is_rotary = bool(getattr(attention, "use_rope", True))
        self._call = call
        self._library = library

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        *_unused: Any,
        step: Any = None,
        **_others: Any,
    ) -> tuple[Tensor, None]:
        """[1, num_rows, hidden_size] of hidden states [1, num_rows, hidden_size].

        Args:
            hidden_states: Of the packed row.
            position_embeddings: cos and sin, [1, num_rows, head_dim] each.
            step: treeserve's attention, as `treeserve.model.AttendRows` has it.
        """
        if step is None:
            raise StepNotPassed("the attention was called without a step")
        call = self._call
        _, num_rows, _ = hidden_states.shape
        heads = self.qkv_proj(hidden_states[0]).view(num_rows, -1, call.head_dim)
        num_turned = call.num_heads + call.num_kv_heads
        q, k, v = heads.split([call.num_heads, call.num_kv_heads, call.num_kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q.copy_(self.q_norm(q))
            k.copy_(self.k_norm(k))
        if self._is_rotary:
            cos, sin = position_embeddings
            self._library.rotate_in_place(heads, num_turned, cos[0], sin[0])
        output = step(q, k, v, **call.options)
        return self.o_proj(output.reshape(1, num_rows, -1)), None
