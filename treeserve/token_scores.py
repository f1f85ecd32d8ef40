"""How likely tokens are by the model's own logits: log-probabilities, ranks, and the likeliest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from treeserve.scheduler.step import Scores
from treeserve.transfer import Readback, send
from treeserve.types import TokenLogprob

MAX_LOGITS = 1 << 24
"""That are worked out at a time, 64 MiB of float32, unless a single row has more."""


class TokenScores(NamedTuple):
    """Of one token a row, on the device."""

    logprobs: Tensor
    """[num_rows, 1]"""
    ranks: Tensor
    """[num_rows] 1 + the number of likelier tokens"""
    top_logprobs: Tensor
    """[num_rows, num_top] likeliest first"""
    top_ids: Tensor
    """[num_rows, num_top]"""


def score_tokens(logits: Tensor, token_ids: Tensor, num_top: int) -> TokenScores:
    """How likely each row's token is.

    Args:
        logits: [num_rows, vocabulary_size] float32.
        token_ids: [num_rows] int64.
        num_top: Likeliest tokens to tell of beside each; at most the vocabulary's.
    """
    table = torch.log_softmax(logits, dim=-1)
    own = table.gather(-1, token_ids[:, None])
    ranks = 1 + (table > own).sum(dim=-1)
    values, indices = table.topk(min(num_top, table.shape[-1]), dim=-1)
    return TokenScores(own, ranks, values, indices)


def bits_of(values: Tensor) -> Tensor:
    """Floats, of any shape, as what packs with integers: [size] int64."""
    return values.double().flatten().view(torch.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPrompts:
    """The prompt tokens of one step and how likely they are, on their way to the host."""

    _scores: Scores
    _num_top: int
    _readback: Readback

    def read_sync(self) -> list[TokenLogprob] | None:
        """One for each of the step's scores; waits for the device. None: some are not numbers."""
        packed = self._readback.wait_sync().reshape(len(self._scores.rows), 2 + 2 * self._num_top)
        own, ranks, values, indices = np.split(packed, [1, 2, 2 + self._num_top], axis=1)
        logprobs = own.copy().view(np.float64).ravel()
        if not np.isfinite(logprobs).all():
            return None
        top_values = values.copy().view(np.float64).tolist()
        pairs = zip(indices.tolist(), top_values, strict=True)
        top = [tuple(zip(*each, strict=True)) for each in pairs]
        columns = (self._scores.targets.tolist(), logprobs.tolist(), top, ranks.ravel().tolist())
        return [TokenLogprob(*each) for each in zip(*columns, strict=True)]


def score_prompts(
    scores: Scores,
    hidden_states: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    vocabulary_size: int,
) -> ScoredPrompts:
    """Works out a step's scores piece by piece, waiting for nothing.

    Args:
        scores: Of the step.
        hidden_states: [num_rows, hidden_size] of all its rows.
        logits_of: [num, vocabulary_size] float32 of hidden states [num, hidden_size].
        vocabulary_size: Decides how many rows a piece has.
    """
    rows, targets = send(
        [scores.rows.astype(np.int64), scores.targets.astype(np.int64)], hidden_states.device
    )
    num_rows = max(1, MAX_LOGITS // vocabulary_size)
    num_top = min(scores.num_top, vocabulary_size)
    packed = [
        _packed(score_tokens(logits_of(hidden_states.index_select(0, own)), own_targets, num_top))
        for own, own_targets in zip(
            torch.split(rows, num_rows), torch.split(targets, num_rows), strict=True
        )
    ]
    return ScoredPrompts(scores, num_top, Readback(torch.cat(packed).flatten()))


def _packed(scored: TokenScores) -> Tensor:
    """[num_rows, 2 + 2 * num_top] int64"""
    return torch.cat(
        [
            bits_of(scored.logprobs)[:, None],
            scored.ranks[:, None],
            bits_of(scored.top_logprobs).reshape(scored.top_logprobs.shape),
            scored.top_ids,
        ],
        dim=-1,
    )
