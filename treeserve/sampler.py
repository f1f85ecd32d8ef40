"""Draws next tokens from logits, for a whole batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from treeserve.blocked_draw import BlockedLogits
from treeserve.logit_rules import SampleRules, apply_rules
from treeserve.token_scores import TokenScores, bits_of, score_tokens
from treeserve.transfer import Readback, send
from treeserve.types import SamplingParams, TokenLogprob

UInt64Array: TypeAlias = NDArray[np.uint64]

MAX_PIECE_LOGITS = 1 << 21
"""That are worked on together on a CPU: 8 MiB of float32, in two or three copies."""
_MASK64 = (1 << 64) - 1
_GOLDEN, _FIRST_FACTOR, _SECOND_FACTOR = (
    np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@dataclass(frozen=True, slots=True)
class DrawParams:
    """What a sample's draws depend on beside logits and position. `params.seed` is set."""

    params: SamplingParams
    sample_index: int
    rules: SampleRules | None = None

    @property
    def needs_history(self) -> bool:
        """Whether its logits depend on the token before, which must have been read by then."""
        return self.rules is not None and self.rules.needs_history


class DrawnToken(NamedTuple):
    """What one sample drew."""

    token_id: int
    logprob: TokenLogprob | None


@dataclass(frozen=True, slots=True, eq=False)
class DrawnStep:
    """What has been drawn, on the host."""

    tokens: list[DrawnToken]
    is_finite: bool
    """Whether every row that was drawn from has a finite largest logit, and no NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Draws that are made in the same way."""

    rows: Tensor | None
    """[num_rows] int64 on the device; None: all there are"""
    temperatures: Tensor
    """[num_rows, 1] float64, as are the others"""
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    is_truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Draws whose log-probabilities are asked for."""

    draws: list[int]
    rows: Tensor | None
    """[num_wanted] int64 on the device; None: all there are"""
    counts: list[int]
    """Likeliest tokens that each asks for."""


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Consecutive draws that are worked out together."""

    start: int
    end: int
    groups: list[_Group]
    wanted: _Wanted


class DrawTable:
    """What the draws of the same samples have in common from step to step, on the device.

    Args:
        draws: Of the samples that draw.
        device: Of the logits.
        piece_rows: Draws that are worked out together, at most. None: all.
    """

    def __init__(
        self, draws: Sequence[DrawParams], device: torch.device, piece_rows: int | None = None
    ) -> None:
        self.draws = draws
        self.rules = [draw.rules for draw in draws]
        self._prefixes = _mixed_prefixes(draws)
        size = piece_rows or max(len(draws), 1)
        self.pieces = [
            _make_piece(draws[start : start + size], start, device)
            for start in range(0, len(draws), size)
        ]
        # Of the whole batch: what is read is split by these.
        all_wanted = [(piece.start, piece.wanted) for piece in self.pieces]
        self.wanted_draws = [start + i for start, wanted in all_wanted for i in wanted.draws]
        self.wanted_counts = [count for _, wanted in all_wanted for count in wanted.counts]

    def uniforms(self, positions: NDArray[np.integer]) -> NDArray[np.float64]:
        """[num_draws] the numbers that `uniform` gives, for draws at these positions."""
        with np.errstate(over="ignore"):
            state = _mix64((self._prefixes ^ positions.astype(np.uint64)) + _GOLDEN)
        return (state >> np.uint64(11)).astype(np.float64) / (1 << 53)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What has been drawn, on the device and on its way to the host."""

    token_ids: Tensor
    """[num_draws] int64"""
    _readback: Readback
    _wanted_draws: list[int]
    _wanted_counts: list[int]
    _num_top: int

    def read_sync(self) -> list[DrawnToken]:
        """Waits for the device."""
        return self.read_step_sync().tokens

    def read_step_sync(self) -> DrawnStep:
        """Waits for the device, once."""
        packed = self._readback.wait_sync()
        num_draws, num_wanted = self.token_ids.shape[0], len(self._wanted_draws)
        num_likeliest = num_wanted * self._num_top
        sizes = [num_draws, 1, num_wanted, num_wanted, num_likeliest, num_likeliest]
        ids, flag, own, ranks, values, indices = np.split(packed, np.cumsum(sizes)[:-1])
        token_ids: list[int] = ids.tolist()
        tokens = list(map(DrawnToken, token_ids, repeat(None)))
        if num_wanted:
            top_values = values.view(np.float64).reshape(num_wanted, -1).tolist()
            top_indices = indices.reshape(num_wanted, -1).tolist()
            own_values, own_ranks = own.view(np.float64).tolist(), ranks.tolist()
            for row, (i, count) in enumerate(
                zip(self._wanted_draws, self._wanted_counts, strict=True)
            ):
                top = tuple(zip(top_indices[row][:count], top_values[row][:count], strict=True))
                logprob = TokenLogprob(token_ids[i], own_values[row], top, own_ranks[row])
                tokens[i] = DrawnToken(token_ids[i], logprob)
        return DrawnStep(tokens, bool(flag[0]))


def draw_tokens(
    logits: Tensor, draws: Sequence[DrawParams], positions: Sequence[int] | NDArray[np.integer]
) -> Drawn:
    """Draw one token per row.

    Args:
        logits: [num_draws, vocabulary_size] of floats.
        draws: One for each row.
        positions: That the drawn tokens will have.
    """
    table = DrawTable(draws, logits.device, rows_of_piece(logits.shape[-1], logits.device))
    [uniforms] = send([table.uniforms(np.asarray(positions))], logits.device)
    return draw_from_table(logits, table, uniforms)


def rows_of_piece(vocabulary_size: int, device: torch.device) -> int | None:
    """For a DrawTable: so many that on a CPU their logits stay in its cache. None: all."""
    return max(1, MAX_PIECE_LOGITS // vocabulary_size) if draws_in_blocks(device) else None


def draws_in_blocks(device: torch.device) -> bool:
    """Whether draws go by blocks of the vocabulary, which the host sorts; else on the device."""
    return device.type == "cpu"


def draw_from_table(logits: Tensor, table: DrawTable, uniforms: Tensor) -> Drawn:
    """Draw one token per row, waiting for nothing.

    Args:
        logits: [num_draws, vocabulary_size] of floats; left as they are, and not read later.
        table: Of the samples that draw.
        uniforms: [num_draws] float64 on the device, as the table gives them for the positions.
    """
    num_top = min(max(table.wanted_counts, default=0), logits.shape[-1])
    pieces = [_draw_piece(logits, table, piece, uniforms, num_top) for piece in table.pieces]
    token_ids = torch.cat([piece.token_ids for piece in pieces])
    is_finite = torch.stack([piece.is_finite for piece in pieces]).all()
    parts = [token_ids, is_finite.long()[None]]
    scored = [piece.scores for piece in pieces if piece.scores is not None]
    if scored:
        own, ranks, values, indices = (torch.cat(part) for part in zip(*scored, strict=True))
        parts += [bits_of(own), ranks, bits_of(values), indices.flatten()]
    readback = Readback(torch.cat(parts))
    return Drawn(token_ids, readback, table.wanted_draws, table.wanted_counts, num_top)


def uniform(seed: int, sample_index: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments.

    The mixing function is splitmix64's (Steele, Lea, Flood 2014), applied once per argument.
    """
    draw = DrawParams(SamplingParams(seed=seed), sample_index)
    table_free = _mixed_prefixes([draw])
    with np.errstate(over="ignore"):
        state = _mix64((table_free ^ np.uint64(position & _MASK64)) + _GOLDEN)
    return float(state[0] >> np.uint64(11)) / (1 << 53)


def _mixed_prefixes(draws: Sequence[DrawParams]) -> UInt64Array:
    """[num_draws] the seeds and sample indices, mixed."""
    seeds = np.array([(draw.params.seed or 0) & _MASK64 for draw in draws], dtype=np.uint64)
    indices = np.array([draw.sample_index & _MASK64 for draw in draws], dtype=np.uint64)
    with np.errstate(over="ignore"):
        return _mix64((_mix64(seeds + _GOLDEN) ^ indices) + _GOLDEN)


def _mix64(values: UInt64Array) -> UInt64Array:
    values = (values ^ (values >> np.uint64(30))) * _FIRST_FACTOR
    values = (values ^ (values >> np.uint64(27))) * _SECOND_FACTOR
    mixed: UInt64Array = values ^ (values >> np.uint64(31))
    return mixed


@dataclass(frozen=True, slots=True, eq=False)
class _DrawnPiece:
    token_ids: Tensor
    is_finite: Tensor
    scores: TokenScores | None


def _draw_piece(
    logits: Tensor, table: DrawTable, piece: _Piece, uniforms: Tensor, num_top: int
) -> _DrawnPiece:
    here = slice(piece.start, piece.end)
    logits, uniforms = logits[here].float(), uniforms[here]
    likeliest = _likeliest(logits)
    # The likeliest is NaN where any is.
    is_finite = torch.isfinite(logits.gather(-1, likeliest[:, None])).all()
    ruled = apply_rules(logits, table.rules[here])
    token_ids = likeliest if ruled is logits else _likeliest(ruled)
    for group in piece.groups:
        chosen = _draw_group(_rows_of(ruled, group.rows), group, _rows_of(uniforms, group.rows))
        if group.rows is None:
            token_ids = chosen
        else:
            token_ids.index_copy_(0, group.rows, chosen)
    if not piece.wanted.draws:
        return _DrawnPiece(token_ids, is_finite, None)
    rows = piece.wanted.rows
    scores = score_tokens(_rows_of(logits, rows), _rows_of(token_ids, rows), num_top)
    return _DrawnPiece(token_ids, is_finite, scores)


def _likeliest(logits: Tensor) -> Tensor:
    """[num_rows] int64"""
    if logits.device.type == "cpu":
        return BlockedLogits(logits).likeliest()
    return logits.argmax(dim=-1)


def _is_truncated(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _make_piece(draws: Sequence[DrawParams], start: int, device: torch.device) -> _Piece:
    params = [draw.params for draw in draws]
    is_random = np.array([p.temperature > 0 for p in params], dtype=np.bool_)
    is_truncated = np.array([_is_truncated(p) for p in params], dtype=np.bool_)
    plain = np.flatnonzero(is_random & ~is_truncated)
    truncated = np.flatnonzero(is_random & is_truncated)
    wanted = [i for i, p in enumerate(params) if p.logprobs is not None]
    columns = np.array(
        [(p.temperature, p.top_k or np.inf, p.top_p, p.min_p) for p in params],
        dtype=np.float64,
    ).reshape(-1, 4)
    [wanted_rows] = send([np.array(wanted, dtype=np.int64)], device)
    groups = [
        _make_group(rows, columns, device, is_truncated=cut)
        for rows, cut in ((plain, False), (truncated, True))
        if len(rows)
    ]
    counts = [params[i].logprobs or 0 for i in wanted]
    unless_all = None if len(wanted) == len(draws) else wanted_rows
    return _Piece(start, start + len(draws), groups, _Wanted(wanted, unless_all, counts))


def _make_group(
    rows: NDArray[np.int64],
    columns: NDArray[np.float64],
    device: torch.device,
    *,
    is_truncated: bool,
) -> _Group:
    on_device, *values = send([rows, *columns[rows].T], device)
    temperatures, top_k, top_p, min_p = (value[:, None] for value in values)
    return _Group(
        rows=None if len(rows) == len(columns) else on_device,
        temperatures=temperatures,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        is_truncated=is_truncated,
    )


def _rows_of(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows)


def _draw_group(logits: Tensor, group: _Group, uniforms: Tensor) -> Tensor:
    """[num_rows] int64"""
    if draws_in_blocks(logits.device):
        blocked = BlockedLogits(logits)
        if not group.is_truncated:
            return blocked.draw(group.temperatures, uniforms)
        limits = group.top_k, group.top_p, group.min_p
        return blocked.draw_truncated(group.temperatures, *limits, uniforms)
    probabilities = torch.softmax(logits.double() / group.temperatures, dim=-1)
    if group.is_truncated:
        return _draw_truncated(probabilities, group, uniforms)
    return _invert_cdf(probabilities, uniforms)


def _draw_truncated(probabilities: Tensor, group: _Group, uniforms: Tensor) -> Tensor:
    probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = torch.arange(probabilities.shape[-1], device=probabilities.device) < group.top_k
    kept &= (before < group.top_p) | (group.top_p >= 1)
    kept &= probabilities >= group.min_p * probabilities[:, :1]
    kept[:, :1].fill_(value=True)
    ranks = _invert_cdf(probabilities * kept, uniforms)
    return order.gather(-1, ranks[:, None]).squeeze(-1)


def _invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The index at which the running sum of each row's weights passes its uniform number."""
    cdf = weights.cumsum(dim=-1)
    targets = uniforms[:, None] * cdf[:, -1:]
    indices = torch.searchsorted(cdf, targets, right=True).squeeze(-1)
    last = (cdf < cdf[:, -1:]).sum(dim=-1)
    return torch.minimum(indices, last)
