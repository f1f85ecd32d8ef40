"""The trees' notation and the steps that come of it, checked by hand."""

import numpy as np
import pytest

from treeserve.bench.attention.paths import tree_paths
from treeserve.bench.attention.trees import (
    TREES,
    Comb,
    Levels,
    decode_step,
    parse_tree,
    plan_decode,
    short_tree,
)
from treeserve.errors import ConfigError


def test_a_tree_is_nodes_and_tokens_by_level():
    assert parse_tree("1,4,64 | 256,32,8") == Levels((1, 4, 64), (256, 32, 8))


def test_a_comb_is_leaves_and_tokens_of_trunk_and_leaf():
    assert parse_tree("comb 32 | 128,16") == Comb(32, 128, 16)


@pytest.mark.parametrize(
    "tree",
    ["", "1,2", "1,x | 2,3", "2,1 | 3,4", "0 | 4", "comb 3", "comb 3 | 4", "comb 0 | 4,5", "comb"],
)
def test_a_broken_tree_is_refused_with_both_forms_that_are_right(tree):
    with pytest.raises(ConfigError, match="--tree"):
        parse_tree(tree)


def test_leaves_of_a_comb_share_one_more_node_of_the_trunk_each():
    prompts = Comb(4, 10, 3).prompts()
    assert [len(prompt) for prompt in prompts] == [13, 23, 33, 43]
    for leaf, prompt in enumerate(prompts[:-1]):
        own_start = (leaf + 1) * 10
        later = prompts[leaf + 1]
        assert np.array_equal(prompt[:own_start], later[:own_start])
        assert prompt[own_start] != later[own_start]


def test_every_sample_of_a_decode_step_sees_its_path_and_its_own_token():
    paths = tree_paths(decode_step("comb 5 | 20,3", "off"))
    assert sorted(paths.lengths.tolist()) == [24, 44, 64, 84, 104]


@pytest.mark.parametrize("sharing", ["on", "always", "off"])
def test_plans_differ_but_what_rows_see_does_not(sharing):
    expected = tree_paths(decode_step("1,3,6 | 30,20,4", "off"))
    actual = tree_paths(decode_step("1,3,6 | 30,20,4", sharing))
    assert np.array_equal(actual.order, expected.order)
    for left, right in zip(actual.slots, expected.slots, strict=True):
        assert np.array_equal(left, right)


def test_a_step_keeps_its_slots_when_the_next_plan_is_made():
    planned = plan_decode("1,4 | 50,6", "always")
    assert [len(path) for path in tree_paths(planned.step).slots] == [57] * 4
    assert planned.plan_seconds > 0
    assert planned.carried_plan_seconds > 0


def test_all_trees_of_the_benchmark_can_be_read_and_stand_in_a_table():
    for tree in TREES:
        assert parse_tree(tree).prompts()
        assert len(short_tree(tree, 28)) <= 28
