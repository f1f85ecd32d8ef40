"""The planner's verdict on synthetic trees, by the costs that engines start with."""

import pytest

from treeserve.attention.backend import default_cost_model
from treeserve.calibration.verdict import plan_of, shares
from treeserve.calibration.workloads import Level, one_prefix

EMBEDDED = default_cost_model("torch", 128)


@pytest.mark.parametrize(
    ("prefix", "batch", "shared"),
    [(2048, 32, True), (1024, 4, True), (256, 4, False), (64, 64, False), (4096, 1, False)],
)
def test_the_built_in_costs_share_on_a_cpu_where_the_readme_says_that_it_pays(
    prefix, batch, shared
):
    assert shares(one_prefix(prefix, batch), EMBEDDED) == shared


def test_prefixes_that_are_too_short_alone_are_shared_together():
    few = (Level(2, 256), Level(8, 32))
    many = (Level(16, 256), Level(64, 32))
    assert not shares(few, EMBEDDED)
    assert shares(many, EMBEDDED)


def test_a_prefix_in_two_levels_counts_with_both():
    assert not shares((Level(1, 1024), Level(3, 32)), EMBEDDED)
    assert shares((Level(1, 1024), Level(3, 512), Level(12, 32)), EMBEDDED)


@pytest.mark.parametrize(
    ("group", "prefix", "batch", "shared"),
    [
        (7, 512, 32, False),
        (7, 512, 128, False),
        (7, 8192, 32, True),
        (7, 8192, 1, False),
        (1, 512, 32, True),
        (1, 32, 2, False),
    ],
)
def test_with_the_compiled_kernel_sharing_pays_later_the_more_queries_a_key_has(
    group, prefix, batch, shared
):
    """Products count there, and they are the same ones whether K and V are shared or not."""
    costs = default_cost_model("cpu", 2 * 2 * 64, group)
    assert shares(one_prefix(prefix, batch), costs) == shared


TRUNK, PROBLEM, TAIL, SAMPLES = 2473, 72, 32, 96
CONTEST = (Level(1, TRUNK), Level(16, PROBLEM), Level(SAMPLES, TAIL))


def test_short_problems_under_a_long_trunk_are_folded_where_a_state_costs_more_than_they_save():
    """With the compiled kernel and seven query heads a state is worth some 500 tokens, and six
    samples of a problem save 60 each."""
    counts = plan_of(CONTEST, default_cost_model("cpu", 2 * 2 * 64, 7)).counts
    assert counts.num_shared_items == 1
    assert counts.tokens_read == TRUNK + SAMPLES * (PROBLEM + TAIL)


def test_short_problems_under_a_long_trunk_are_shared_where_a_state_is_cheap():
    """With PyTorch's operator it is worth some 30 tokens."""
    counts = plan_of(CONTEST, default_cost_model("torch", 2 * 2 * 64)).counts
    assert counts.num_shared_items == 17
    assert counts.tokens_read == TRUNK + 16 * PROBLEM + SAMPLES * TAIL


@pytest.mark.parametrize(("backend", "group"), [("torch", 1), ("torch", 7), ("cpu", 1), ("cpu", 7)])
def test_a_contest_whose_problems_are_stored_once_never_costs_more_than_one_with_copies(
    backend, group
):
    """The tree offers the planner all that the trunk alone does, and more."""
    costs = default_cost_model(backend, 2 * 2 * 64, group)
    copies = (Level(1, TRUNK), Level(SAMPLES, PROBLEM + TAIL))
    for samples_of_each in (1, 2, 6, 32):
        problems = SAMPLES // samples_of_each
        tree = (Level(1, TRUNK), Level(problems, PROBLEM), Level(SAMPLES, TAIL))
        once, copied = (plan_of(t, costs).counts.predicted_cost for t in (tree, copies))
        assert once <= copied * (1 + 1e-9)


@pytest.mark.parametrize(
    ("tree", "shared"),
    [
        ((Level(16, 64), Level(64, 32)), False),
        ((Level(1, 64), Level(2, 32)), False),
        ((Level(4, 256), Level(64, 32)), True),
        ((Level(1, 1024), Level(4, 32)), True),
    ],
)
def test_with_many_kv_heads_a_state_is_a_unit_of_work_for_each_of_them(tree, shared):
    """Sharing sixteen prefixes of 64 tokens took 12% longer than reading each for every sample."""
    assert shares(tree, default_cost_model("cpu", 2 * 8 * 64, 1)) == shared
