"""Compares what sharing on and off draw greedily, as far as rounding lets them be the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from treeserve.bench.decode.sides import Drawn

LOGPROB_TOLERANCES = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
NUM_LIKELIEST = 20
"""Among which both tokens must be where a sample parts; random weights make many nearly equal."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Samples are compared token by token until two tokens are so close that rounding decides."""

    num_equal: int
    """Draws that were the same token, with log-probabilities within the tolerance."""
    num_parted: int
    """Samples that took different tokens, both sides holding the two as about equally likely."""
    largest_difference: float
    """Of the log-probabilities of equal tokens."""
    wrong: str
    """What cannot be rounding; empty: nothing."""


def compare_samples(
    left: Sequence[Sequence[Drawn]], right: Sequence[Sequence[Drawn]], dtype: str
) -> Comparison:
    """Compare the samples of the same prompts.

    Args:
        left, right: [num_samples][num_tokens] with log-probabilities of the likeliest tokens.
        dtype: Of the model.
    """
    tolerance = LOGPROB_TOLERANCES[dtype]
    num_equal = num_parted = 0
    largest = 0.0
    for index, (mine, other) in enumerate(zip(left, right, strict=True)):
        for position, (a, b) in enumerate(zip(mine, other, strict=True)):
            wrong = _wrong(a, b, tolerance)
            if wrong:
                place = f"sample {index}, token {position}: {wrong}"
                return Comparison(num_equal, num_parted, largest, place)
            if a.token_id != b.token_id:
                num_parted += 1
                break
            num_equal += 1
            largest = max(largest, abs(a.logprob - b.logprob))
    return Comparison(num_equal, num_parted, largest, "")


def compare_tokens(
    mine: Sequence[Sequence[Drawn]], other: Sequence[Sequence[int]], dtype: str
) -> Comparison:
    """Compare with the tokens of somebody who tells no log-probabilities of others beside them.

    Args:
        mine: [num_samples][num_tokens] with log-probabilities of the likeliest tokens.
        other: [num_samples][num_tokens]
        dtype: Of the model.
    """
    tolerance = LOGPROB_TOLERANCES[dtype]
    num_equal = num_parted = 0
    for index, (drawn, token_ids) in enumerate(zip(mine, other, strict=True)):
        for position, (a, token_id) in enumerate(zip(drawn, token_ids, strict=True)):
            if a.token_id == token_id:
                num_equal += 1
                continue
            if not _is_likely_too(a, token_id, tolerance):
                place = f"sample {index}, token {position}"
                wrong = f"{place}: tokens {a.token_id} and {token_id} differ, and not by rounding"
                return Comparison(num_equal, num_parted, 0.0, wrong)
            num_parted += 1
            break
    return Comparison(num_equal, num_parted, 0.0, "")


def _wrong(a: Drawn, b: Drawn, tolerance: float) -> str:
    """Why these two draws cannot come from the same logits, or nothing."""
    if a.token_id == b.token_id:
        difference = abs(a.logprob - b.logprob)
        if difference <= tolerance:
            return ""
        return f"log-probabilities differ by {difference:.2g}, allowed {tolerance:g}"
    for one, its_other in ((a, b), (b, a)):
        if not _is_likely_too(one, its_other.token_id, tolerance):
            return f"tokens {a.token_id} and {b.token_id} differ, and not by rounding"
    return ""


def _is_likely_too(drawn: Drawn, token_id: int, tolerance: float) -> bool:
    """Whether the other token is so close to the drawn one that rounding decides."""
    likely = drawn.top.get(token_id)
    return likely is not None and drawn.logprob - likely <= 2 * tolerance
