"""How a linear layer's weight lies packed: panels of outputs, pairs along the inputs; and int8."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treeserve.large_pages import ask_for_large_pages

PANEL = 64
"""Outputs of a panel; as in kernels/cpu/panels.h."""
_LARGEST = 127
_PIECE = 32 * PANEL
"""Outputs that are packed at a time: what is worked out on the way takes no more than theirs."""
_PAIR_DTYPES = {torch.bfloat16: torch.int32, torch.int8: torch.int16}


@dataclass(frozen=True, slots=True, eq=False)
class PanelWeight:
    """A weight as the kernels read it."""

    panels: Tensor
    """[num_panels, in_features / 2, PANEL, 2] bfloat16 or int8, outputs filled up with zeros."""
    scales: Tensor | None
    """[out_features] float32, what each output's numbers of int8 are to be multiplied by."""
    out_features: int

    @property
    def in_features(self) -> int:
        return 2 * self.panels.shape[1]

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def plain(self) -> Tensor:
        """[out_features, in_features] bfloat16, made anew."""
        return _scaled(_from_panels(self.panels)[: self.out_features], self.scales)

    def rows(self, outputs: Tensor) -> Tensor:
        """[..., in_features] bfloat16, the weights of outputs [...] int64."""
        chosen = outputs.reshape(-1)
        pairs = _packed_pairs(self.panels)[chosen // PANEL, :, chosen % PANEL]
        scales = None if self.scales is None else self.scales[chosen]
        return _scaled(pairs.view(self.panels.dtype), scales).view(*outputs.shape, -1)


def pack_weight(weight: Tensor, done: Callable[[Tensor], object] | None = None) -> PanelWeight:
    """As it is.

    Args:
        weight: [out_features, in_features] bfloat16 or int8, in_features even.
        done: Is called with each piece of the weight that will not be read again.
    """
    panels = _new_panels(weight, weight.dtype)
    for first in range(0, len(weight), _PIECE):
        piece = weight.detach()[first : first + _PIECE]
        _fill(panels[first // PANEL :], piece)
        if done is not None:
            done(piece)
    return PanelWeight(panels, None, len(weight))


def pack_weight_in_place(weight: Tensor) -> PanelWeight:
    """As `pack_weight`, but in the weight's own memory, if its outputs fill the panels.

    So a large weight is never there twice. Whoever else reads it finds the panels.

    Args:
        weight: As for `pack_weight`.
    """
    weight = weight.detach()
    if len(weight) % PANEL or not weight.is_contiguous() or weight.data_ptr() % PANEL:
        return pack_weight(weight)
    num_panels = len(weight) // PANEL
    for rows in _pairs(weight).view(num_panels, PANEL, -1):
        # A copy first, which is then written over the rows.
        rows.view(-1).copy_(rows.transpose(0, 1).reshape(-1))
    return PanelWeight(weight.view(num_panels, -1, PANEL, 2), None, len(weight))


def quantize_weight(weight: Tensor, done: Callable[[Tensor], object] | None = None) -> PanelWeight:
    """As the nearest whole numbers, symmetric, those of each output up to 127.

    Args:
        weight: [out_features, in_features] bfloat16, in_features even.
        done: As for `pack_weight`.
    """
    panels, scales = _new_panels(weight, torch.int8), weight.new_empty(len(weight)).float()
    for first in range(0, len(weight), _PIECE):
        piece = weight.detach()[first : first + _PIECE]
        exact = piece.float()
        largest = exact.abs().amax(dim=1)
        # Of an output of zeros any scale will do; one that is not finite spoils its results.
        steps = torch.where(largest == 0, torch.ones_like(largest), largest) / _LARGEST
        _fill(panels[first // PANEL :], (exact / steps[:, None]).round_().to(torch.int8))
        scales[first : first + _PIECE] = steps
        if done is not None:
            done(piece)
    return PanelWeight(panels, scales, len(weight))


def join_weights(weights: Sequence[PanelWeight]) -> PanelWeight:
    """The outputs of several weights with the same inputs, all with scales or all without."""
    scales = [weight.scales for weight in weights if weight.scales is not None]
    if any(weight.out_features % PANEL for weight in weights[:-1]):
        plain = [_from_panels(weight.panels)[: weight.out_features] for weight in weights]
        panels = pack_weight(torch.cat(plain)).panels
    else:
        panels = join_panels([weight.panels for weight in weights])
    return PanelWeight(
        panels,
        torch.cat(scales) if scales else None,
        sum(weight.out_features for weight in weights),
    )


def join_panels(parts: Sequence[Tensor]) -> Tensor:
    """Panels of the same inputs and dtype, one after the other."""
    first = parts[0]
    joined = _empty_panels(sum(map(len, parts)), first.shape[1], first.dtype)
    return torch.cat(list(parts), out=joined)


def _new_panels(weight: Tensor, dtype: torch.dtype) -> Tensor:
    out_features, in_features = weight.shape
    return _empty_panels(-(-out_features // PANEL), in_features // 2, dtype)


def _empty_panels(num_panels: int, num_pairs: int, dtype: torch.dtype) -> Tensor:
    """Not zeros: their pages come to be as they are filled."""
    panels = torch.empty(num_panels, num_pairs, PANEL, 2, dtype=dtype)
    ask_for_large_pages(panels)
    return panels


def _fill(panels: Tensor, rows: Tensor) -> None:
    """The first panels with rows [num_rows, in_features] of the same dtype."""
    # A pair is moved as one number.
    pairs, packed = _pairs(rows), _packed_pairs(panels)
    whole, num_pairs = len(rows) // PANEL, pairs.shape[1]
    packed[:whole] = pairs[: whole * PANEL].view(whole, PANEL, num_pairs).transpose(1, 2)
    rest = pairs[whole * PANEL :]
    if len(rest):
        packed[whole, :, : len(rest)] = rest.transpose(0, 1)
        packed[whole, :, len(rest) :] = 0


def _from_panels(panels: Tensor) -> Tensor:
    """[num_panels * PANEL, in_features]"""
    return panels.transpose(1, 2).reshape(-1, 2 * panels.shape[1])


def _pairs(weight: Tensor) -> Tensor:
    """[out_features, in_features / 2] two neighbours as one whole number."""
    weight = weight.detach().contiguous()
    if weight.storage_offset() % 2:
        weight = weight.clone()
    return weight.view(_PAIR_DTYPES[weight.dtype])


def _packed_pairs(panels: Tensor) -> Tensor:
    """[num_panels, in_features / 2, PANEL], the same memory."""
    return panels.view(_PAIR_DTYPES[panels.dtype])[..., 0]


def _scaled(rows: Tensor, scales: Tensor | None) -> Tensor:
    return rows if scales is None else (rows * scales[:, None]).to(torch.bfloat16)
