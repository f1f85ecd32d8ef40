"""Draws from logits on a CPU by blocks of tokens, so that a draw looks at few tokens one by one."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 64
"""Tokens."""
NUM_SORTED_BLOCKS = 64
"""Whose tokens are sorted where a draw is truncated; the 64 likeliest are among them."""


class BlockedLogits:
    """Some rows of logits, and the largest one of each block of them.

    Args:
        logits: [num_rows, vocabulary_size] float32 on the CPU; left as they are.
    """

    def __init__(self, logits: Tensor) -> None:
        num_rows, self._vocabulary_size = logits.shape
        num_blocks = -(-self._vocabulary_size // BLOCK)
        if self._vocabulary_size % BLOCK:
            padded = logits.new_full((num_rows, num_blocks * BLOCK), -torch.inf)
            padded[:, : self._vocabulary_size] = logits
            logits = padded
        self._blocks = logits.reshape(num_rows, num_blocks, BLOCK)
        self._maxima = self._blocks.amax(dim=-1)

    def likeliest(self) -> Tensor:
        """[num_rows] int64 the first of the largest; NaN is the largest, as for argmax."""
        block = self._maxima.argmax(dim=-1)
        return block * BLOCK + self._block(self._blocks, block).argmax(dim=-1)

    def draw(self, temperatures: Tensor, uniforms: Tensor) -> Tensor:
        """[num_rows] int64 where the running sum of the softmax passes the uniform numbers.

        Args:
            temperatures: [num_rows, 1] float64, above 0.
            uniforms: [num_rows] float64 in [0, 1).
        """
        weights = self._weights(temperatures)
        cdf = _running_sum(weights)
        targets = uniforms[:, None] * cdf[:, -1:]
        block = _first_above(cdf, targets)
        before = torch.where(
            block[:, None] > 0, cdf.gather(-1, (block[:, None] - 1).clamp(min=0)), 0.0
        )
        within = self._block(weights, block).double().cumsum(dim=-1)
        return block * BLOCK + _first_above(within, targets - before)

    def draw_truncated(
        self, temperatures: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniforms: Tensor
    ) -> Tensor:
        """The same of the likeliest tokens alone, in the order of their likelihood.

        Args:
            temperatures, top_k, top_p, min_p: [num_rows, 1] float64; top_k may be infinite.
            uniforms: [num_rows] float64 in [0, 1).
        """
        limits = torch.cat([top_k, top_p, min_p], dim=-1)
        totals = _running_sum(self._weights(temperatures))[:, -1:]
        logits, ids, num_known = self._likeliest_blocks()
        drawn, num_kept = self._draw_sorted(logits, temperatures, totals, limits, uniforms)
        token_ids = ids.gather(-1, drawn[:, None]).squeeze(-1)
        rest = (num_kept > num_known).nonzero().squeeze(-1)
        if len(rest):
            logits, ids = _sort_descending(self._blocks[rest].flatten(1))
            drawn, _ = self._draw_sorted(
                logits, temperatures[rest], totals[rest], limits[rest], uniforms[rest]
            )
            token_ids[rest] = ids.gather(-1, drawn[:, None]).squeeze(-1)
        return token_ids

    def _likeliest_blocks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of the blocks with the largest maxima: logits in descending order and ids,
        [num_rows, num] each, and how many of them nothing elsewhere comes before, [num_rows].
        """
        num_rows, num_blocks = self._maxima.shape
        if num_blocks <= NUM_SORTED_BLOCKS:
            logits, ids = _sort_descending(self._blocks.flatten(1))
            return logits, ids, ids.new_full((num_rows,), ids.shape[-1])
        maxima, chosen = self._maxima.topk(NUM_SORTED_BLOCKS, dim=-1)
        # In their own order, so that of equal logits the lower id comes first.
        chosen = chosen.sort(dim=-1).values
        starts = (chosen * BLOCK)[:, :, None]
        ids = (starts + torch.arange(BLOCK)).flatten(1)
        candidates = self._blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
        logits, order = _sort_descending(candidates)
        # No block that was left out holds more than the least of these.
        num_known = (logits > maxima[:, -1:]).sum(dim=-1)
        return logits, ids.gather(-1, order), num_known

    def _draw_sorted(
        self, logits: Tensor, temperatures: Tensor, totals: Tensor, limits: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[num_rows] each: the rank that is drawn, and how many ranks could have been."""
        top_k, top_p, min_p = limits[:, :1], limits[:, 1:2], limits[:, 2:]
        weights = ((logits - logits[:, :1]).double() / temperatures).exp()
        before = weights.cumsum(dim=-1) - weights
        kept = torch.arange(logits.shape[-1]) < top_k
        kept &= (before < top_p * totals) | (top_p >= 1)
        kept &= weights >= min_p * weights[:, :1]
        kept[:, 0] = True
        cdf = (weights * kept).cumsum(dim=-1)
        return _first_above(cdf, uniforms[:, None] * cdf[:, -1:]), kept.sum(dim=-1)

    def _weights(self, temperatures: Tensor) -> Tensor:
        """[num_rows, num_blocks, BLOCK] float32, the largest of a row 1."""
        peaks = self._maxima.amax(dim=-1)[:, None, None]
        # In two steps: at a low temperature the quotient alone would overflow.
        return (self._blocks - peaks).div_(temperatures.float()[:, :, None]).exp_()

    def _block(self, values: Tensor, block: Tensor) -> Tensor:
        """[num_rows, BLOCK] one block of each row."""
        index = block[:, None, None].expand(-1, 1, BLOCK)
        return values.gather(1, index).squeeze(1)


def _sort_descending(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values and int64 indices, as a stable sort of each row gives them.

    Args:
        values: [num_rows, num] float32, none of them NaN.
    """
    # NumPy sorts integers with AVX-512, ten times as fast as a stable sort of floats is. As
    # integers, floats are in order if the negative ones have their other bits turned round; and
    # minus zero, which would come before zero, is none any more when zero is added.
    bits = (values + 0.0).view(torch.int32)
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (~ascending).long() << 32 | torch.arange(values.shape[-1])
    indices = torch.from_numpy(np.sort(keys.numpy(), axis=-1)) & 0xFFFFFFFF
    return values.gather(-1, indices), indices


def _running_sum(weights: Tensor) -> Tensor:
    """[num_rows, num_blocks] float64"""
    return weights.sum(dim=-1).double().cumsum(dim=-1)


def _first_above(cdf: Tensor, targets: Tensor) -> Tensor:
    """[num_rows] the first index at which a running sum is above the target, if any is; and never
    one that adds nothing to it.
    """
    indices = torch.searchsorted(cdf, targets, right=True).squeeze(-1)
    last = (cdf < cdf[:, -1:]).sum(dim=-1)
    return torch.minimum(indices, last)
