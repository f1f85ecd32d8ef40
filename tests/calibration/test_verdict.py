"""The planner's verdict on synthetic trees, by the costs that engines start with."""

import pytest

from treeserve.attention.backend import default_cost_model
from treeserve.calibration.verdict import shares
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
