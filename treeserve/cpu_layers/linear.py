"""Linear layers and embeddings over weights in panels, of bfloat16 or of int8."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from treeserve.cpu_layers.library import LayerLibrary
from treeserve.cpu_layers.panels import PanelWeight, join_weights
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
    bias = None
    if any(layer.bias is not None for layer in layers):
        parts = [
            torch.zeros(layer.out_features, dtype=torch.bfloat16)
            if layer.bias is None
            else layer.bias.detach()
            for layer in layers
        ]
        bias = nn.Parameter(torch.cat(parts), requires_grad=False)
    return PanelLinear(join_weights([layer.packed for layer in layers]), bias, library)


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
