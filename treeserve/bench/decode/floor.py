"""The floor of a decode step: no time below it can be, by rates measured on this device."""

from dataclasses import dataclass

from torch import nn

from treeserve.bench.rates import Rates
from treeserve.model import LoadedModel
from treeserve.packed_linear import PackedLinear

_PASSES_OVER_PAIRS = 4
"""Operations for each (row, token) pair, query head and dimension, as for bench attention."""


@dataclass(frozen=True, slots=True)
class StepFloor:
    """Every weight read once, every distinct token's K and V read once, every product made."""

    rates: Rates
    num_weights: int
    """Of linear layers, the output head among them."""
    weight_bytes: int
    """That these take."""
    numbers_per_token: int
    """In K and V of all layers."""
    query_numbers: int
    """Of a row, in all layers."""
    itemsize: int
    """Bytes of a number in K and V."""

    def seconds(self, batch: int, prefix: int, own_tokens: int) -> float:
        """Of a step of so many rows that share a prefix and have tokens of their own behind it."""
        distinct = prefix + batch * own_tokens
        pairs = batch * (prefix + own_tokens)
        linear = self._longer(self.weight_bytes, 2 * batch * self.num_weights)
        attention = self._longer(
            distinct * self.numbers_per_token * self.itemsize,
            _PASSES_OVER_PAIRS * pairs * self.query_numbers,
        )
        return linear + attention

    def _longer(self, num_bytes: int, operations: int) -> float:
        reading = num_bytes / self.rates.bytes_per_second
        return max(reading, operations / self.rates.operations_per_second)


def step_floor(model: LoadedModel, rates: Rates) -> StepFloor:
    """Of a model whose weights all take part in every token."""
    layers = [part for part in model.module.modules() if isinstance(part, nn.Linear | PackedLinear)]
    return StepFloor(
        rates=rates,
        num_weights=sum(part.in_features * part.out_features for part in layers),
        weight_bytes=sum(_weight_bytes(part) for part in layers),
        numbers_per_token=sum(2 * layer.num_kv_heads * layer.head_dim for layer in model.layers),
        query_numbers=sum(layer.num_heads * layer.head_dim for layer in model.layers),
        itemsize=model.dtype.itemsize,
    )


def _weight_bytes(part: nn.Linear | PackedLinear) -> int:
    return part.weight_bytes if isinstance(part, PackedLinear) else part.weight.nbytes
