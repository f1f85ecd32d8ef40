"""What another program's side of the decode benchmark has to offer."""

from collections.abc import Sequence
from typing import Protocol

from treeserve.bench.decode.compare import Comparison
from treeserve.bench.decode.sides import Drawn
from treeserve.errors import TreeserveError


class RivalFailed(TreeserveError):
    """The side does not run here; says why."""


class Rival(Protocol):
    """Greedy decoding of one batch after another, the prefix computed beforehand."""

    def why_not(self, batch: int, num_tokens: int, bytes_per_token: int) -> str:
        """Why there is no room for a batch with so many tokens each, or nothing."""

    def compare(
        self,
        mine: Sequence[Sequence[Drawn]],
        prompts: Sequence[tuple[int, ...]],
        num_prefix: int,
        dtype: str,
    ) -> Comparison:
        """What treeserve drew of these prompts with what this side draws.

        Args:
            mine: [num_samples][num_tokens] with log-probabilities of the likeliest tokens.
            prompts: Of the samples, all with one prefix.
            num_prefix: Tokens of the prefix.
            dtype: Of the model.

        Raises:
            RivalFailed: It does not run here.
        """

    def step_seconds(
        self, prompts: Sequence[tuple[int, ...]], num_prefix: int, num_steps: int
    ) -> float:
        """The mean of so many steps after the first token; prefill is not in it.

        Raises:
            RivalFailed: It broke off.
        """

    def end_case(self) -> None:
        """These prompts will not come again; give back the memory that only they needed."""
