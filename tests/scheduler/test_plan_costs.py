"""No plan is cheaper than the planner's, what merging costs once a step counted in."""

from dataclasses import replace

import numpy as np
import pytest
from least_cost import best_cost, cost_of
from made_up_batch import FREE_SHARING, Batch, items

from treeserve.scheduler.plan.cost import CostModel

MERGING = CostModel(token_cost=1, state_cost=40, item_cost=0, sharing_cost=2700)


def small_batch(seed: int) -> Batch:
    """Few enough segments for every choice of them to be tried."""
    random = np.random.default_rng(seed)
    batch = Batch()
    leaves = [batch.segment(None, int(random.integers(1, 60)))]
    for _ in range(random.integers(0, 7)):
        parent = leaves[random.integers(len(leaves))]
        leaves.append(batch.segment(parent, int(random.integers(1, 60))))
    for _ in range(random.integers(1, 12)):
        batch.decode(leaves[random.integers(len(leaves))], tail=int(random.integers(1, 9)))
    return batch


def prefixes(num_prefixes: int, num_tokens: int, sharers: int) -> Batch:
    batch = Batch()
    for _ in range(num_prefixes):
        prefix = batch.segment(None, num_tokens)
        for _ in range(sharers):
            batch.decode(prefix, tail=5)
    return batch


@pytest.mark.parametrize("seed", range(60))
def test_no_choice_of_segments_is_cheaper(seed):
    batch = small_batch(seed)
    for cost_model in (
        CostModel(token_cost=1, state_cost=4, item_cost=16),
        CostModel(token_cost=1, state_cost=4, item_cost=0, sharing_cost=250),
        CostModel(token_cost=1, state_cost=1, item_cost=30, max_item_tokens=25),
        CostModel(token_cost=1, state_cost=1, item_cost=5, sharing_cost=90, max_item_tokens=90),
        CostModel(token_cost=2e-9, state_cost=5e-8, item_cost=3e-7, sharing_cost=8e-7),
    ):
        plan = batch.plan(cost_model)
        best = pytest.approx(best_cost(batch, cost_model))
        assert cost_of(plan, cost_model) == best
        assert plan.counts.predicted_cost == best


@pytest.mark.parametrize("seed", range(40))
def test_no_choice_is_cheaper_where_rows_end_with_what_they_share(seed):
    """They can read it together and have nothing to merge."""
    random = np.random.default_rng(seed)
    batch = small_batch(seed)
    for sample in random.choice(batch.samples, 6):
        end = sample.leaf.end_position
        batch.prompt(sample.leaf, end=end - int(random.integers(end) // 3), num_rows=1)
    for sharing_cost in (0, 40, 150, 1e9):
        cost_model = CostModel(token_cost=1, state_cost=4, item_cost=9, sharing_cost=sharing_cost)
        plan = batch.plan(cost_model)
        best = pytest.approx(best_cost(batch, cost_model))
        assert cost_of(plan, cost_model) == best
        assert plan.counts.predicted_cost == best


def test_one_short_prefix_is_not_worth_merging_for():
    plan = prefixes(1, num_tokens=500, sharers=4).plan(MERGING)
    assert items(plan) == [(0, 505, (row,)) for row in range(4)]
    assert (plan.counts.num_folded_segments, plan.counts.num_plain_rows) == (1, 4)
    assert plan.counts.predicted_cost == 4 * (505 + 40)


def test_prefixes_too_short_alone_are_shared_where_they_pay_together():
    plan = prefixes(3, num_tokens=500, sharers=4).plan(MERGING)
    assert plan.counts.num_shared_items == 3
    assert plan.counts.predicted_cost == 3 * (500 + 4 * 5 + 8 * 40) + 2700


def test_what_does_not_pay_by_itself_stays_folded_beside_what_is_shared():
    batch = prefixes(1, num_tokens=5000, sharers=2)
    short = batch.segment(None, 50)
    batch.decode(short)
    batch.decode(short)
    plan = batch.plan(MERGING)
    assert [rows for _, _, rows in items(plan)] == [(0, 1), (0,), (1,), (2,), (3,)]


@pytest.mark.parametrize("cost_model", [FREE_SHARING, MERGING, replace(MERGING, sharing_cost=0)])
def test_one_sample_alone_never_shares(cost_model):
    plan = prefixes(1, num_tokens=50_000, sharers=1).plan(cost_model)
    assert (plan.num_items, plan.counts.max_row_states) == (1, 1)
    assert plan.counts.predicted_cost == 50_005 + cost_model.state_cost


def test_merging_is_paid_anyway_where_a_row_is_cut():
    """So a short prefix beside it is shared, as it would not be alone."""
    cost_model = replace(MERGING, max_item_tokens=1000)
    batch = prefixes(1, num_tokens=500, sharers=4)
    assert batch.plan(cost_model).counts.num_shared_items == 0
    batch.decode(batch.segment(None, 1500))
    plan = batch.plan(cost_model)
    assert plan.counts.num_shared_items == 1
    assert plan.counts.predicted_cost == 500 + 4 * 5 + 8 * 40 + 1501 + 2 * 40 + 2700


def test_rows_with_nothing_beneath_a_trunk_share_it_without_merging():
    batch = Batch()
    trunk = batch.segment(None, 300)
    for _ in range(4):
        batch.prompt(trunk, end=300, num_rows=1)
    beside = batch.segment(None, 500)
    batch.decode(beside)
    batch.decode(beside)
    plan = batch.plan(MERGING)
    assert sorted(items(plan)) == [(0, 300, (2, 3, 4, 5)), (0, 501, (0,)), (0, 501, (1,))]
    assert plan.counts.max_row_states == 1
    assert plan.counts.predicted_cost == 300 + 2 * 501 + 6 * 40
