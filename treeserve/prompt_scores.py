"""How likely one prompt's tokens are: gathered as steps compute them, and told in order."""

from collections.abc import Iterable
from dataclasses import replace

from treeserve.types import TokenLogprob

MAX_TOLD = 1024
"""Tokens that are told of at a time, so that no message is large."""


class PromptScores:
    """Of a prompt's tokens from its second one on.

    Args:
        num_top: Likeliest tokens to tell of beside each.
    """

    def __init__(self, num_top: int) -> None:
        self._num_top = num_top
        self._next = 1
        self._waiting: dict[int, TokenLogprob] = {}

    def add(
        self, positions: Iterable[int], logprobs: Iterable[TokenLogprob]
    ) -> list[tuple[TokenLogprob, ...]]:
        """What can be told now that the tokens at these positions are known, in order."""
        for position, entry in zip(positions, logprobs, strict=True):
            self._waiting[position] = replace(entry, top=entry.top[: self._num_top])
        told = []
        while self._next in self._waiting:
            told.append(self._waiting.pop(self._next))
            self._next += 1
        return [tuple(told[at : at + MAX_TOLD]) for at in range(0, len(told), MAX_TOLD)]
