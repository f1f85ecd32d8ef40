"""Linear layers and embeddings over weights in panels, of bfloat16 or of int8."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from treeserve.cpu_layers.library import LayerLibrary
from treeserve.cpu_layers.panels import PanelWeight, join_panels, join_weights
from treeserve.packed_linear import PackedLinear


class PanelLinear(PackedLinear):
    """The weight in panels. A row's result has the same bits whatever rows are beside it.

    With a weight of int8 the states become int16 for the products, in segments of a row with a
    scale each, so that the sums of a segment are exact.

    Args:
        weight: As the kernels read it.
        bias: [out_features] bfloat16, or None.
        library: Of the kernels.
    """

    def __init__(
        self, weight: PanelWeight, bias: nn.Parameter | None, library: LayerLibrary
    ) -> None:
        super().__init__(weight.in_features, weight.out_features, bias)
        self.packed = weight
        self._library = library

    @property
    def panels(self) -> Tensor:
        """As the kernels read them."""
        return self.packed.panels

    @property
    def weight(self) -> Tensor:
        return self.packed.plain()

    @property
    def weight_bytes(self) -> int:
        return self.packed.nbytes

    def forward(self, states: Tensor) -> Tensor:
        packed = self.packed
        return self._library.linear(
            states.contiguous(), packed.panels, packed.scales, self.bias, self.out_features
        )


def join_layers(layers: Sequence[PanelLinear], library: LayerLibrary) -> PanelLinear:
    """One layer whose results are those of several with the same inputs, side by side."""
    weight = join_weights([layer.packed for layer in layers])
    return PanelLinear(weight, _join_biases(layers), library)


class GatedPanels(PackedLinear):
    """Gates and ups as one product that gives silu(gates) * ups; they themselves are nowhere.

    Args:
        gate, up: With the same inputs and as many outputs, both quantized or neither.
        library: Of the kernels.
    """

    def __init__(self, gate: PanelLinear, up: PanelLinear, library: LayerLibrary) -> None:
        size = gate.out_features
        super().__init__(gate.in_features, 2 * size, _join_biases([gate, up]))
        # Panels of their own, so that a gate and its up are at the same place of a panel.
        self.panels = join_panels([gate.packed.panels, up.packed.panels])
        scales = [part.packed.scales for part in (gate, up) if part.packed.scales is not None]
        self._scales = torch.cat(scales) if scales else None
        self._size = size
        self._library = library

    @property
    def weight(self) -> Tensor:
        """[2 * size, in_features] the gates' and then the ups', a copy."""
        scales = [None, None] if self._scales is None else self._scales.chunk(2)
        halves = zip(self.panels.chunk(2), scales, strict=True)
        return torch.cat([PanelWeight(*half, self._size).plain() for half in halves])

    @property
    def weight_bytes(self) -> int:
        return self.panels.nbytes + (0 if self._scales is None else self._scales.nbytes)

    def forward(self, states: Tensor) -> Tensor:
        """[..., size] of states [..., in_features]."""
        return self._library.gated_linear(
            states.contiguous(), self.panels, self._scales, self.bias, self._size
        )


class PackedEmbedding(nn.Module):
    """Embeddings that are the rows of a packed output head, which is there once for both.

    Args:
        weight: [vocabulary_size, hidden_size], the head's.
    """

    def __init__(self, weight: PanelWeight) -> None:
        super().__init__()
        self._packed = weight

    def forward(self, token_ids: Tensor) -> Tensor:
        """[..., hidden_size] of token ids [...] int64."""
        return self._packed.rows(token_ids)


def _join_biases(layers: Sequence[PanelLinear]) -> nn.Parameter | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        torch.zeros(layer.out_features, dtype=torch.bfloat16)
        if layer.bias is None
        else layer.bias.detach()
        for layer in layers
    ]
    return nn.Parameter(torch.cat(parts), requires_grad=False)
