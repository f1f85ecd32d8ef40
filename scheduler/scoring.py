"""What a request whose prompt is scored has still to be told, and what it computed for that."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

BoolArray: TypeAlias = NDArray[np.bool_]


class Scoring:
    """The row of every prompt token but the last says how likely the token after it is.

    Args:
        num_tokens: Of the prompt.
    """

    def __init__(self, num_tokens: int) -> None:
        self.missing: BoolArray = np.ones(num_tokens - 1, dtype=np.bool_)
        """[num_tokens - 1] rows by position, those whose logits nobody has asked for yet"""
        self.num_missing = num_tokens - 1
        self._computed: BoolArray = np.zeros(num_tokens, dtype=np.bool_)

    def take(self, positions: NDArray[np.integer]) -> None:
        """The rows at these positions [num_rows], all of them missing, are in a step."""
        self.missing[positions] = False
        self.num_missing -= len(positions)

    def count_computed(self, start: int, end: int) -> int:
        """The request computes positions `[start, end)`; of the prompt's, how many for the first
        time. They need not come in order."""
        own = self._computed[start:end]
        num_new = len(own) - int(np.count_nonzero(own))
        own[:] = True
        return num_new
