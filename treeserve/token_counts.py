"""Counts the tokens of several prompts, and what they begin with in common once."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from treeserve.types import Usage


def count_distinct(prompts: Iterable[Sequence[int]]) -> int:
    """Tokens of the tree that the prompts make: common beginnings are counted once."""
    total = 0
    last = np.zeros(0, dtype=np.int64)
    for prompt in sorted(map(tuple, prompts)):
        tokens = np.array(prompt, dtype=np.int64)
        total += len(tokens) - _common_length(last, tokens)
        last = tokens
    return total


def combined_usage(prompts: Sequence[Sequence[int]], usages: Sequence[Usage]) -> Usage:
    """The usage of a tree: each of its tokens counted once.

    What was cached is a beginning of each prompt; what is neither cached nor computed by the tree
    was computed by others meanwhile.
    """
    distinct = count_distinct(prompts)
    computed = min(distinct, sum(usage.computed_tokens for usage in usages))
    beginnings = [
        prompt[: usage.cached_tokens] for prompt, usage in zip(prompts, usages, strict=True)
    ]
    cached = min(distinct - computed, count_distinct(beginnings))
    return Usage(
        prompt_tokens=distinct,
        cached_tokens=cached,
        shared_tokens=distinct - computed - cached,
        computed_tokens=computed,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        recomputed_tokens=sum(usage.recomputed_tokens for usage in usages),
    )


def _common_length(left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length
