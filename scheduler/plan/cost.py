"""The cost model: what a work item costs, so that sharing is planned only where it pays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CostModel:
    """Costs in any one unit; only their ratios matter. Measured by whoever runs the kernels.

    An item of t tokens and r rows costs `token_cost * t + item_cost + state_cost * r`, and a step
    in which any row has more than one state costs `sharing_cost` besides. What every plan does
    alike (each row's arithmetic over all its tokens, the first reading of a token from memory) is
    left out.
    """

    token_cost: float = 1.0
    """Reading one token's K and V, once more."""
    state_cost: float = 16.0
    """Writing and merging one row's state."""
    item_cost: float = 64.0
    """Starting one item."""
    sharing_cost: float = 0.0
    """Merging states at all, once a step; rows with a single state each need no merge."""
    max_item_tokens: int | None = None
    """Longer items are cut, so that a few long ones occupy the whole device. None: never."""

    def __post_init__(self) -> None:
        if min(self.token_cost, self.state_cost, self.item_cost, self.sharing_cost) < 0:
            raise ValueError("costs must not be negative")
        if self.max_item_tokens is not None and self.max_item_tokens < 1:
            raise ValueError("max_item_tokens must be at least 1")

    def must_merge(self, num_tokens: NDArray[np.int64]) -> bool:
        """Whether any reader of so many tokens has several states in every plan: it is cut."""
        most = self.max_item_tokens
        return most is not None and num_tokens.max(initial=0) > most

    def items_cost(
        self, num_tokens: NDArray[np.int64], num_rows: NDArray[np.int64] | np.int64
    ) -> NDArray[np.float64]:
        """Cost of one item each, cut where it is too long; nothing where it has no tokens."""
        num_pieces = (num_tokens > 0).astype(np.int64)
        if self.max_item_tokens is not None:
            num_pieces = -(-num_tokens // self.max_item_tokens)
        per_piece = np.float64(self.item_cost) + np.float64(self.state_cost) * num_rows
        cost: NDArray[np.float64] = (
            np.float64(self.token_cost) * num_tokens + num_pieces * per_piece
        )
        return cost
