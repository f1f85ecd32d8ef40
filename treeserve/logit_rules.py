"""What changes a sample's logits before a token is drawn: penalties, biases, bans and guidance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from treeserve.transfer import send

_Ids: TypeAlias = NDArray[np.int64]
_Mask: TypeAlias = NDArray[np.int32]


class Matcher(Protocol):
    """How far one sample is in a grammar."""

    @property
    def error(self) -> str:
        """Why it cannot go on; "" while it can."""

    def fill_mask(self, mask: _Mask) -> None:
        """Set the bits of the tokens that may come next: token t is bit t % 32 of word t // 32."""

    def observe(self, token_id: int) -> None:
        """The sample drew a token."""


class Grammar(Protocol):
    """What a request's samples have to match."""

    def start(self) -> Matcher: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class RuleSet:
    """The rules of a request; each of its samples keeps its own history.

    A repetition penalty sees the prompt and what was drawn; the other two what was drawn alone.
    """

    prompt_token_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    end_token_ids: frozenset[int] = frozenset()
    """Not to be drawn before min_tokens, unless the grammar leaves nothing else."""
    grammar: Grammar | None = None

    def start(self) -> "SampleRules":
        """The rules of one sample that has drawn nothing."""
        return SampleRules(self)

    @property
    def depends_on_tokens(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.grammar is not None
        )

    @cached_property
    def prompt_ids(self) -> _Ids:
        """[num_distinct]"""
        return np.unique(np.array(self.prompt_token_ids, dtype=np.int64))

    @cached_property
    def end_ids(self) -> _Ids:
        """[num_end_tokens]"""
        return np.array(sorted(self.end_token_ids), dtype=np.int64)

    @cached_property
    def biases(self) -> tuple[_Ids, NDArray[np.float64]]:
        """[num_biased] each: tokens, and what is added to their logits."""
        ids = np.array(list(self.logit_bias.keys()), dtype=np.int64)
        return ids, np.array(list(self.logit_bias.values()), dtype=np.float64)


class SampleRules:
    """One sample's rules and what they have to know of what it drew.

    Args:
        rules: Of its request.
    """

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.num_drawn = 0
        self._counts: dict[int, int] = {}
        self._matcher = None if rules.grammar is None else rules.grammar.start()

    @property
    def needs_history(self) -> bool:
        """Whether the next draw depends on the last token, or on how many there have been."""
        return self.rules.depends_on_tokens or self.bans_ends

    @property
    def bans_ends(self) -> bool:
        return self.num_drawn < self.rules.min_tokens

    @property
    def error(self) -> str:
        """Why the sample cannot go on; "" while it can."""
        return "" if self._matcher is None else self._matcher.error

    def observe(self, token_id: int) -> None:
        """The sample drew a token."""
        self.num_drawn += 1
        self._counts[token_id] = self._counts.get(token_id, 0) + 1
        if self._matcher is not None:
            self._matcher.observe(token_id)

    def repeated(self) -> _Ids:
        """[num_distinct] of the prompt and what was drawn."""
        return np.union1d(self.rules.prompt_ids, self.drawn()[0])

    def drawn(self) -> tuple[_Ids, NDArray[np.float64]]:
        """[num_distinct] each: what was drawn, and how often."""
        ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
        return ids, np.fromiter(self._counts.values(), np.float64, len(self._counts))

    def mask(self, vocabulary_size: int) -> _Mask | None:
        """[ceil(vocabulary_size / 32)] bits of the tokens that the grammar lets come next, if any.

        Ends are left out before min_tokens, unless nothing else would be left.
        """
        if self._matcher is None:
            return None
        mask = np.zeros(-(-vocabulary_size // 32), dtype=np.int32)
        self._matcher.fill_mask(mask)
        if self.bans_ends:
            without = mask.view(np.uint32).copy()
            for token_id in self.rules.end_token_ids:
                without[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
            if without.any():
                return without.view(np.int32)
        return mask


def apply_rules(logits: Tensor, rules: Sequence[SampleRules | None]) -> Tensor:
    """Logits to draw from.

    Repetition penalty first, then the other penalties, biases, bans and guidance.

    Args:
        logits: [num_draws, vocabulary_size] float32; not changed.
        rules: One for each row; None leaves it as it is.

    Returns:
        [num_draws, vocabulary_size] float32; `logits` itself where no row has rules.
    """
    ruled = [_Ruled(row, own) for row, own in enumerate(rules) if own is not None]
    if not ruled:
        return logits
    logits = logits.clone()
    _divide_repeated(logits, ruled)
    _penalise_drawn(logits, ruled)
    _add_biases(logits, ruled)
    _ban_ends(logits, ruled)
    _mask(logits, ruled)
    return logits


class _Ruled(NamedTuple):
    row: int
    sample: SampleRules


class _Entries(NamedTuple):
    """Some entries of the logits, each named once."""

    rows: Tensor
    ids: Tensor
    values: Tensor


def _divide_repeated(logits: Tensor, ruled: Iterable[_Ruled]) -> None:
    parts = []
    for row, sample in ruled:
        penalty = sample.rules.repetition_penalty
        if penalty != 1:
            ids = sample.repeated()
            parts.append((row, ids, np.full(len(ids), penalty, dtype=np.float64)))
    if entries := _entries(parts, logits.device):
        old = logits[entries.rows, entries.ids]
        penalties = entries.values.float()
        new = torch.where(old > 0, old / penalties, old * penalties)
        logits[entries.rows, entries.ids] = new


def _penalise_drawn(logits: Tensor, ruled: Iterable[_Ruled]) -> None:
    parts = []
    for row, sample in ruled:
        rules = sample.rules
        if rules.presence_penalty != 0 or rules.frequency_penalty != 0:
            ids, counts = sample.drawn()
            amounts = rules.presence_penalty + rules.frequency_penalty * counts
            parts.append((row, ids, -amounts))
    _add(logits, _entries(parts, logits.device))


def _add_biases(logits: Tensor, ruled: Iterable[_Ruled]) -> None:
    parts = [(row, *sample.rules.biases) for row, sample in ruled if sample.rules.logit_bias]
    _add(logits, _entries(parts, logits.device))


def _ban_ends(logits: Tensor, ruled: Iterable[_Ruled]) -> None:
    """Where there is a grammar, its mask sees to it."""
    parts = []
    for row, sample in ruled:
        if sample.bans_ends and sample.rules.grammar is None:
            ids = sample.rules.end_ids
            parts.append((row, ids, np.full(len(ids), -np.inf, dtype=np.float64)))
    _add(logits, _entries(parts, logits.device))


def _mask(logits: Tensor, ruled: Iterable[_Ruled]) -> None:
    masks = [(row, sample.mask(logits.shape[-1])) for row, sample in ruled]
    found = [(row, mask) for row, mask in masks if mask is not None]
    if not found:
        return
    indices = np.array([row for row, _ in found], dtype=np.int64)
    rows, packed = send([indices, np.concatenate([mask for _, mask in found])], logits.device)
    words = packed.view(len(found), -1)
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)
    allowed = ((words[:, :, None] >> shifts) & 1).flatten(1)[:, : logits.shape[-1]].bool()
    logits[rows] = logits[rows].masked_fill(~allowed, -torch.inf)


def _add(logits: Tensor, entries: _Entries | None) -> None:
    if entries:
        logits[entries.rows, entries.ids] += entries.values.float()


def _entries(
    parts: Sequence[tuple[int, _Ids, NDArray[Any]]], device: torch.device
) -> _Entries | None:
    """Of (row, [num] token ids, [num] values); None if there are none."""
    if not sum(len(ids) for _, ids, _ in parts):
        return None
    rows = np.concatenate([np.full(len(ids), row, dtype=np.int64) for row, ids, _ in parts])
    ids = np.concatenate([ids for _, ids, _ in parts])
    values = np.concatenate([values for _, _, values in parts])
    return _Entries(*send([rows, ids, values], device))
