"""The plan shares where it pays, and every row sees its own tokens exactly once."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_batch import FREE_SHARING, Batch, items

from treeserve.scheduler.plan.check import check_plan
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.decide import MAX_FOLDED_RUNS


def random_batch(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    batch = Batch()
    leaves = [
        batch.segment(None, int(random.integers(1, 200))) for _ in range(random.integers(1, 3))
    ]
    for _ in range(random.integers(0, 12)):
        parent = leaves[random.integers(len(leaves))]
        leaves.append(batch.segment(parent, int(random.integers(1, 200))))
    for _ in range(random.integers(1, 20)):
        leaf = leaves[random.integers(len(leaves))]
        if random.random() < 0.7:
            batch.decode(leaf, tail=int(random.integers(1, 30)))
        else:
            end = int(random.integers(1, leaf.end_position + 1))
            batch.prompt(leaf, end=end, num_rows=int(random.integers(1, end + 1)))
    return batch


@pytest.mark.parametrize("seed", range(150))
def test_random_trees_are_covered_exactly_once(seed):
    batch = random_batch(seed)
    for cost_model in (FREE_SHARING, CostModel(), CostModel(max_item_tokens=32)):
        plan = batch.plan(cost_model)
        assert len(plan.row_states) == len(set(plan.row_states.tolist()))
        assert plan.counts.tokens_read <= plan.counts.tokens_read_flat
    flat = batch.flat()
    assert flat.num_items == len(batch.readers())
    assert flat.counts.tokens_read == flat.counts.tokens_read_flat
    assert flat.counts.num_plain_rows == flat.num_rows


def test_some_random_trees_fold_and_some_split():
    counts = [random_batch(seed).plan(CostModel()).counts for seed in range(150)]
    assert sum(c.num_folded_segments > 0 for c in counts) > 15
    assert sum(c.num_shared_items > 0 for c in counts) > 15
    assert sum(c.num_folded_segments > 0 and c.num_shared_items > 0 for c in counts) > 15


def test_rows_of_a_group_need_not_be_neighbours():
    batch = Batch()
    a, b = batch.segment(None, 500), batch.segment(None, 500)
    batch.decode(a)
    batch.decode(b)
    batch.decode(a)
    assert sorted(items(batch.plan(CostModel()))) == [
        (0, 500, (0, 2)),
        (0, 501, (1,)),
        (500, 1, (0,)),
        (500, 1, (2,)),
    ]


def test_one_row_folds_to_one_item():
    batch = Batch()
    trunk = batch.segment(None, 10_000)
    branch = batch.segment(trunk, 10_000)
    batch.decode(branch, tail=7)
    plan = batch.plan()
    assert items(plan) == [(0, 20_007, (0,))]
    assert (plan.counts.num_shared_items, plan.counts.num_folded_segments) == (0, 0)
    assert plan.counts.tokens_read == plan.counts.tokens_read_flat == 20_007


def test_one_node_and_rows_that_have_nothing_beneath_it():
    batch = Batch()
    trunk = batch.segment(None, 300)
    for _ in range(4):
        batch.prompt(trunk, end=300, num_rows=1)
    plan = batch.plan(CostModel())
    assert items(plan) == [(0, 300, (0, 1, 2, 3))]
    assert plan.counts.tokens_read == 300
    assert plan.counts.tokens_read_flat == 1200
    assert plan.counts.num_shared_items == 1


def test_the_longest_node_may_come_last():
    batch = Batch()
    short, long = batch.segment(None, 10), batch.segment(None, 5000)
    batch.decode(short)
    batch.decode(short)
    batch.decode(long)
    batch.decode(long)
    assert (0, 5000, (2, 3)) in items(batch.plan(CostModel()))


def test_two_sharers_of_64_tokens_read_alone_and_of_500_together():
    for length, num_shared, num_folded in [(64, 0, 1), (500, 1, 0)]:
        batch = Batch()
        trunk = batch.segment(None, length)
        batch.decode(trunk, tail=20)
        batch.decode(trunk, tail=20)
        counts = batch.plan(CostModel()).counts
        assert (counts.num_shared_items, counts.num_folded_segments) == (num_shared, num_folded)


def test_folded_pieces_can_pay_together_though_none_pays_alone():
    batch = Batch()
    trunk = batch.segment(None, 60)
    middle = batch.segment(trunk, 60)
    for _ in range(2):
        batch.decode(middle)
    batch.decode(trunk)
    assert (0, 120, (0, 1)) in items(batch.plan(CostModel(state_cost=16, item_cost=70)))


def test_a_chain_of_segments_with_the_same_rows_is_one_item():
    batch = Batch()
    leaf = batch.segment(None, 200)
    for _ in range(5):
        leaf = batch.segment(leaf, 100)
    for _ in range(8):
        batch.decode(leaf)
    plan = batch.plan(CostModel())
    assert items(plan)[0] == (0, 700, tuple(range(8)))
    assert plan.num_items == 9


def test_long_items_are_cut_and_rows_skip_what_they_cannot_see():
    batch = Batch()
    trunk = batch.segment(None, 100)
    batch.prompt(trunk, end=100, num_rows=100)
    plan = batch.plan(CostModel(max_item_tokens=30))
    assert [(start, length) for start, length, _ in items(plan)] == [
        (0, 25),
        (25, 25),
        (50, 25),
        (75, 25),
    ]
    assert [rows[0] for _, _, rows in items(plan)] == [0, 25, 50, 75]


def test_a_partly_computed_segment_gives_what_is_needed_and_no_more():
    batch = Batch()
    trunk = batch.segment(None, 100)
    pending = batch.segment(trunk, 100)
    batch.prompt(pending, end=130, num_rows=30)
    batch.decode(trunk)
    for plan in (batch.plan(), batch.flat()):
        spans = zip(plan.item_slot_starts, plan.item_slot_ends, strict=True)
        read = np.concatenate([plan.item_slots[start:end] for start, end in spans])
        assert not np.isin(pending.slots[30:], read).any()


def test_a_chunk_that_crosses_into_its_suffix_beside_one_that_uses_the_trunk_at_once():
    batch = Batch()
    trunk = batch.segment(None, 200)
    a, b = batch.segment(trunk, 50), batch.segment(trunk, 50)
    batch.prompt(a, end=250, num_rows=250)
    batch.prompt(b, end=250, num_rows=50)
    plan = batch.plan()
    assert items(plan) == [
        (0, 200, tuple(range(300))),
        (200, 50, tuple(range(200, 250))),
        (200, 50, tuple(range(250, 300))),
    ]


def test_an_empty_step_has_an_empty_plan():
    for plan in (Batch().plan(), Batch().flat()):
        assert (plan.num_items, plan.num_rows) == (0, 0)


def test_arrays_are_int32():
    plan = random_batch(7).plan(CostModel(max_item_tokens=16))
    for name in (
        "item_rows",
        "item_row_starts",
        "item_slots",
        "item_slot_starts",
        "item_slot_ends",
        "item_start_positions",
        "row_states",
        "row_state_starts",
    ):
        assert getattr(plan, name).dtype == np.int32, name


def test_every_shared_segment_is_read_once_where_sharing_is_always_on():
    batch = Batch()
    trunk = batch.segment(None, 3)
    branch = batch.segment(trunk, 2)
    for leaf in (trunk, branch, branch):
        batch.decode(leaf)
    dear = CostModel(token_cost=1, state_cost=1000, item_cost=1000, sharing_cost=1000)
    assert items(batch.plan(dear, "always")) == [
        (0, 3, (0, 1, 2)),
        (3, 2, (1, 2)),
        (3, 1, (0,)),
        (5, 1, (1,)),
        (5, 1, (2,)),
    ]
    plain = batch.plan(dear)
    assert plain.counts.num_shared_items == 0
    always = batch.plan(dear, "always").counts
    assert always.predicted_cost > plain.counts.predicted_cost, "by the model that was given"


def test_branches_nested_300_deep_are_shared_where_that_pays():
    batch = Batch()
    leaf = None
    for _ in range(300):
        leaf = batch.segment(leaf, 5)
        batch.decode(leaf)
    plan = batch.plan(FREE_SHARING)
    assert plan.counts.num_shared_items == 299
    assert plan.counts.max_row_states == 300
    assert plan.counts.tokens_read == 300 * 5 + 300


def test_branches_nested_300_deep_are_folded_where_it_does_not():
    """An item carries a few folded branches at most, which costs little and bounds the work."""
    batch = Batch()
    leaf = batch.segment(None, 100_000)
    batch.decode(leaf)
    for _ in range(299):
        leaf = batch.segment(leaf, 1)
        batch.decode(leaf)
    plan = batch.plan(CostModel(token_cost=1, state_cost=1e4, item_cost=1e4))
    assert plan.counts.num_shared_items == 299 // (MAX_FOLDED_RUNS + 1)


def test_branches_nested_300_deep_are_read_alone_where_none_pays():
    batch = Batch()
    leaf = None
    for _ in range(300):
        leaf = batch.segment(leaf, 1)
        batch.decode(leaf)
    plan = batch.plan(CostModel(token_cost=1, state_cost=1e4, item_cost=1e4))
    assert plan.counts.num_plain_rows == 300


def test_the_counts_say_what_was_shared():
    batch = Batch()
    trunk = batch.segment(None, 1000)
    left, right = batch.segment(trunk, 500), batch.segment(trunk, 2)
    alone = batch.segment(None, 40)
    for leaf in (left, left, left, right, right, trunk, alone):
        batch.decode(leaf)
    counts = batch.plan(CostModel(max_item_tokens=300)).counts
    assert (counts.num_shared_items, counts.num_private_items) == (4 + 2, 7)
    assert counts.num_cut_pieces == 3 + 1
    assert counts.num_folded_segments == 1
    assert counts.num_plain_rows == 1
    assert (counts.num_shared_rows, counts.max_shared_rows) == (4 * 6 + 2 * 3, 6)
    assert counts.max_row_states == 4 + 2 + 1
    assert counts.max_branches == 3
    assert counts.tokens_read == 1000 + 500 + 3 + 2 * 3 + 1 + 41
    assert counts.tokens_read_flat == 3 * 1501 + 2 * 1003 + 1001 + 41
    assert counts.origin == "rebuilt"


def test_a_plan_that_is_wrong_is_found_out():
    batch = Batch()
    trunk = batch.segment(None, 500)
    batch.decode(trunk, tail=3)
    batch.decode(trunk, tail=3)
    plan = batch.plan(CostModel())
    broken = {
        "item_slots": np.roll(plan.item_slots, 1),
        "item_slot_ends": plan.item_slot_ends - np.int32([1, 0, 0]),
        "item_start_positions": plan.item_start_positions + np.int32([0, 1, 0]),
        "item_rows": plan.item_rows[::-1].copy(),
        "row_states": plan.row_states[[1, 0, 2, 3]],
    }
    for name, value in broken.items():
        with pytest.raises(AssertionError):
            check_plan(
                replace(plan, **{name: value}), batch.samples, batch.chunks(), batch.positions()
            )


def test_cost_models_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="negative"):
        CostModel(token_cost=-1)
    with pytest.raises(ValueError, match="negative"):
        CostModel(sharing_cost=-1)
    with pytest.raises(ValueError, match="max_item_tokens"):
        CostModel(max_item_tokens=0)
