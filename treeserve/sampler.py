"""Draws next tokens from logits, for a whole batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treeserve.types import SamplingParams, TokenLogprob

_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class DrawParams:
    """What a sample's draws depend on beside logits and position. `params.seed` is set."""

    params: SamplingParams
    sample_index: int


@dataclass(frozen=True, slots=True)
class DrawnToken:
    token_id: int
    logprob: TokenLogprob | None


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What has been drawn, on the device."""

    token_ids: Tensor
    """[num_draws] int64"""
    _logprobs: dict[int, TokenLogprob]

    def read_sync(self) -> list[DrawnToken]:
        """Waits for the device."""
        return [
            DrawnToken(token_id, self._logprobs.get(i))
            for i, token_id in enumerate(_to_host_sync(self.token_ids))
        ]


def draw_tokens(logits: Tensor, draws: Sequence[DrawParams], positions: Sequence[int]) -> Drawn:
    """Draw one token per row.

    Args:
        logits: [num_draws, vocabulary_size] float32.
        draws: One for each row.
        positions: That the drawn tokens will have.
    """
    token_ids = logits.argmax(dim=-1)
    plain = [i for i, draw in enumerate(draws) if _is_random(draw) and not _is_truncated(draw)]
    truncated = [i for i, draw in enumerate(draws) if _is_random(draw) and _is_truncated(draw)]
    for rows, draw_some in ((plain, _draw_plain), (truncated, _draw_truncated)):
        if rows:
            some = [draws[i] for i in rows]
            uniforms = [_uniform(draws[i], positions[i]) for i in rows]
            token_ids[rows] = draw_some(logits[rows], some, uniforms)
    return Drawn(token_ids, _logprobs(logits, token_ids, draws))


def uniform(seed: int, sample_index: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments.

    The mixing function is splitmix64's (Steele, Lea, Flood 2014), applied once per argument.
    """
    state = 0
    for value in (seed, sample_index, position):
        state = _mix64((state ^ (value & _MASK64)) + 0x9E3779B97F4A7C15 & _MASK64)
    return (state >> 11) / (1 << 53)


def _mix64(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def _is_random(draw: DrawParams) -> bool:
    return draw.params.temperature > 0


def _is_truncated(draw: DrawParams) -> bool:
    return draw.params.top_k > 0 or draw.params.top_p < 1 or draw.params.min_p > 0


def _probabilities(logits: Tensor, draws: Sequence[DrawParams]) -> Tensor:
    temperatures = _column([draw.params.temperature for draw in draws], logits.device)
    return torch.softmax(logits.double() / temperatures, dim=-1)


def _uniform(draw: DrawParams, position: int) -> float:
    return uniform(draw.params.seed or 0, draw.sample_index, position)


def _draw_plain(logits: Tensor, draws: Sequence[DrawParams], uniforms: Sequence[float]) -> Tensor:
    return _invert_cdf(_probabilities(logits, draws), uniforms)


def _draw_truncated(
    logits: Tensor, draws: Sequence[DrawParams], uniforms: Sequence[float]
) -> Tensor:
    probabilities, order = _probabilities(logits, draws).sort(dim=-1, descending=True, stable=True)
    device = logits.device
    vocabulary_size = logits.shape[-1]
    top_k = _column([draw.params.top_k or vocabulary_size for draw in draws], device)
    top_p = _column([draw.params.top_p for draw in draws], device)
    min_p = _column([draw.params.min_p for draw in draws], device)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = torch.arange(vocabulary_size, device=device) < top_k
    kept &= (before < top_p) | (top_p >= 1)
    kept &= probabilities >= min_p * probabilities[:, :1]
    kept[:, 0] = True
    ranks = _invert_cdf(probabilities * kept, uniforms)
    return order.gather(-1, ranks[:, None]).squeeze(-1)


def _invert_cdf(weights: Tensor, uniforms: Sequence[float]) -> Tensor:
    """The index at which the running sum of each row's weights passes its uniform number."""
    cdf = weights.cumsum(dim=-1)
    targets = _column(uniforms, weights.device) * cdf[:, -1:]
    indices = torch.searchsorted(cdf, targets, right=True).squeeze(-1)
    last = (cdf < cdf[:, -1:]).sum(dim=-1)
    return torch.minimum(indices, last)


def _logprobs(
    logits: Tensor, token_ids: Tensor, draws: Sequence[DrawParams]
) -> dict[int, TokenLogprob]:
    wanted = [i for i, draw in enumerate(draws) if draw.params.logprobs is not None]
    if not wanted:
        return {}
    table = torch.log_softmax(logits[wanted], dim=-1)
    own = _to_host_sync(table.gather(-1, token_ids[wanted][:, None]).squeeze(-1))
    width = max(draws[i].params.logprobs or 0 for i in wanted)
    values, indices = (_to_host_sync(x) for x in table.topk(min(width, table.shape[-1]), dim=-1))
    ids = _to_host_sync(token_ids[wanted])
    result = {}
    for row, i in enumerate(wanted):
        count = draws[i].params.logprobs or 0
        top = tuple(zip(indices[row][:count], values[row][:count], strict=True))
        result[i] = TokenLogprob(token_id=ids[row], logprob=own[row], top=top)
    return result


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)[:, None]


def _to_host_sync(tensor: Tensor) -> list:  # type: ignore[type-arg]
    return tensor.tolist()
