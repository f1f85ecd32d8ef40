"""What prompts begin with in common is counted once."""

import random

import pytest

from treeserve.token_counts import combined_usage, count_distinct
from treeserve.types import Usage


def naive(prompts) -> int:
    return len({tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)})


@pytest.mark.parametrize("seed", range(20))
def test_counting_agrees_with_a_set_of_all_beginnings(seed):
    chance = random.Random(seed)
    prompts = [
        [chance.randrange(2) for _ in range(chance.randrange(8))]
        for _ in range(chance.randrange(12))
    ]
    assert count_distinct(prompts) == naive(prompts)


def test_a_trees_usage_counts_every_token_once():
    prompts = [(1, 2, 3, 4), (1, 2, 3, 5, 6), (1, 2)]
    usages = [
        Usage(4, 2, 0, 2, 10, 1),
        Usage(5, 2, 1, 2, 20, 0),
        Usage(2, 2, 0, 0, 30, 2),
    ]
    # 1 2 3 4 and 5 6: two cached, four computed, and the 3 that was shared was the tree's own.
    assert combined_usage(prompts, usages) == Usage(6, 2, 0, 4, 60, 3)


def test_what_others_computed_meanwhile_is_shared():
    usage = combined_usage([(1, 2, 3), (1, 2, 4)], [Usage(3, 0, 2, 1, 5), Usage(3, 0, 2, 1, 5)])
    assert usage == Usage(4, 0, 2, 2, 10)
