"""The plan shares where it pays, and every row sees its own tokens exactly once."""

import itertools

import numpy as np
import pytest

from treeserve.scheduler.cost import CostModel
from treeserve.scheduler.plan import check_plan, plan_flat, plan_shared
from treeserve.scheduler.segment import Root, Segment
from treeserve.scheduler.step import Plan
from treeserve.scheduler.trie import Chunk

FREE_SHARING = CostModel(token_cost=1, state_cost=0, item_cost=0)


class Batch:
    """Paths over made-up segments with slots of their own, and the chunks that read them."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self._num_slots = 0
        self._num_rows = 0

    def segment(self, parent: Segment | None, length: int) -> Segment:
        return Segment(
            parent=parent or Root("", np.zeros(0, dtype=np.int32)),
            tokens=np.zeros(length, dtype=np.int32),
            slots=self._slots(length),
            pages=np.zeros(0, dtype=np.int32),
            start_position=parent.end_position if parent else 0,
            num_computed=length,
            serial=0,
        )

    def decode(self, *path: Segment, tail: int = 1) -> None:
        self._add(path, self._slots(tail), 1, path[-1].end_position + tail)

    def prompt(self, *path: Segment, end: int, num_rows: int) -> None:
        self._add(path, self._slots(0), num_rows, end)

    def positions(self) -> np.ndarray:
        runs = [np.arange(c.end_position - c.num_rows, c.end_position) for c in self.chunks]
        return np.concatenate(runs).astype(np.int32)

    def plan(self, cost_model: CostModel = FREE_SHARING) -> Plan:
        plan = plan_shared(self.chunks, self.positions(), cost_model)
        check_plan(plan, self.chunks, self.positions())
        return plan

    def flat(self, cost_model: CostModel = FREE_SHARING) -> Plan:
        plan = plan_flat(self.chunks, self.positions(), cost_model)
        check_plan(plan, self.chunks, self.positions())
        return plan

    def _slots(self, length: int) -> np.ndarray:
        self._num_slots += length
        return np.arange(self._num_slots - length, self._num_slots, dtype=np.int32)

    def _add(self, path: tuple[Segment, ...], tail: np.ndarray, num_rows: int, end: int) -> None:
        self.chunks.append(Chunk(path, tail, self._num_rows, num_rows, end))
        self._num_rows += num_rows


def items(plan: Plan) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start position, tokens, rows) of each item."""
    rows = np.split(plan.item_rows, plan.item_row_starts[1:-1])
    lengths = np.diff(plan.item_slot_starts)
    return [
        (int(start), int(length), tuple(r.tolist()))
        for start, length, r in zip(plan.item_start_positions, lengths, rows, strict=True)
    ]


def random_batch(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    batch = Batch()
    paths = []
    for _ in range(random.integers(1, 3)):
        root = batch.segment(None, int(random.integers(1, 200)))
        paths.append((root,))
    for _ in range(random.integers(0, 12)):
        path = paths[random.integers(len(paths))]
        paths.append((*path, batch.segment(path[-1], int(random.integers(1, 200)))))
    for _ in range(random.integers(1, 20)):
        path = paths[random.integers(len(paths))]
        if random.random() < 0.7:
            batch.decode(*path, tail=int(random.integers(1, 30)))
        else:
            end = int(random.integers(path[-1].start_position + 1, path[-1].end_position + 1))
            batch.prompt(*path, end=end, num_rows=int(random.integers(1, end + 1)))
    return batch


def best_cost(batch: Batch, cost_model: CostModel) -> float:
    """The least cost over every choice of shared segments; the slow truth."""
    readers: dict[frozenset[int], Segment] = {}
    for segment in (s for chunk in batch.chunks for s in chunk.path):
        readers[frozenset(i for i, c in enumerate(batch.chunks) if segment in c.path)] = segment
    shared = [last for rows, last in readers.items() if len(rows) > 1]
    costs = []
    for picks in itertools.product([False, True], repeat=len(shared)):
        ends_item = dict(zip(shared, picks, strict=True))
        groups: dict[tuple[int, int, object], tuple[int, int]] = {}
        for index, chunk in enumerate(batch.chunks):
            start = 0
            for segment in chunk.path:
                if ends_item.get(segment):
                    end = max(
                        min(segment.end_position, c.end_position)
                        for c in batch.chunks
                        if segment in c.path
                    )
                    tokens, rows = groups.get((start, end, segment), (end - start, 0))
                    groups[start, end, segment] = (tokens, rows + chunk.num_rows)
                    start = end
            if chunk.end_position > start:
                groups[start, chunk.end_position, index] = (
                    chunk.end_position - start,
                    chunk.num_rows,
                )
        each = [
            float(cost_model.items_cost(np.array([t]), np.array([r]))[0])
            for t, r in groups.values()
        ]
        costs.append(sum(each))
    return min(costs)


def cost_of(plan: Plan, batch: Batch, cost_model: CostModel) -> float:
    """By the items as they are, before rows that see nothing of an item are left out."""
    return sum(
        float(cost_model.items_cost(np.array([length]), np.array([len(rows)]))[0])
        for _, length, rows in items(plan)
    )


@pytest.mark.parametrize("seed", range(150))
def test_random_trees_are_covered_exactly_once(seed):
    batch = random_batch(seed)
    for cost_model in (FREE_SHARING, CostModel(), CostModel(max_item_tokens=32)):
        plan = batch.plan(cost_model)
        assert len(plan.row_states) == len(set(plan.row_states.tolist()))
        assert plan.counts.tokens_read <= plan.counts.tokens_read_flat
    assert batch.flat().num_items == len(batch.chunks)


def test_some_random_trees_fold_and_some_split():
    counts = [random_batch(seed).plan(CostModel()).counts for seed in range(150)]
    assert sum(c.num_folded_segments > 0 for c in counts) > 15
    assert sum(c.num_shared_items > 0 for c in counts) > 15
    assert sum(c.num_folded_segments > 0 and c.num_shared_items > 0 for c in counts) > 15


@pytest.mark.parametrize("seed", range(60))
def test_no_choice_of_segments_is_cheaper(seed):
    random = np.random.default_rng(seed)
    batch = Batch()
    paths = [(batch.segment(None, int(random.integers(1, 60))),)]
    for _ in range(random.integers(0, 7)):
        path = paths[random.integers(len(paths))]
        paths.append((*path, batch.segment(path[-1], int(random.integers(1, 60)))))
    for _ in range(random.integers(1, 12)):
        batch.decode(*paths[random.integers(len(paths))], tail=int(random.integers(1, 9)))
    for cost_model in (
        CostModel(token_cost=1, state_cost=4, item_cost=16),
        CostModel(token_cost=1, state_cost=1, item_cost=30, max_item_tokens=25),
    ):
        found = cost_of(batch.plan(cost_model), batch, cost_model)
        assert found == pytest.approx(best_cost(batch, cost_model))


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
    batch.decode(trunk, branch, tail=7)
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
        batch.decode(trunk, middle)
    batch.decode(trunk)
    assert (0, 120, (0, 1)) in items(batch.plan(CostModel(state_cost=16, item_cost=70)))


def test_a_chain_of_segments_with_the_same_rows_is_one_item():
    batch = Batch()
    path = [batch.segment(None, 200)]
    for _ in range(5):
        path.append(batch.segment(path[-1], 100))
    for _ in range(8):
        batch.decode(*path)
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
    batch.prompt(trunk, pending, end=130, num_rows=30)
    batch.decode(trunk)
    for plan in (batch.plan(), batch.flat()):
        assert not np.isin(pending.slots[30:], plan.item_slots).any()


def test_a_chunk_that_crosses_into_its_suffix_beside_one_that_uses_the_trunk_at_once():
    batch = Batch()
    trunk = batch.segment(None, 200)
    a, b = batch.segment(trunk, 50), batch.segment(trunk, 50)
    batch.prompt(trunk, a, end=250, num_rows=250)
    batch.prompt(trunk, b, end=250, num_rows=50)
    plan = batch.plan()
    assert items(plan) == [
        (0, 200, tuple(range(300))),
        (200, 50, tuple(range(200, 250))),
        (200, 50, tuple(range(250, 300))),
    ]


def test_an_empty_step_has_an_empty_plan():
    empty = np.zeros(0, dtype=np.int32)
    for plan in (plan_shared([], empty, CostModel()), plan_flat([], empty, CostModel())):
        assert (plan.num_items, plan.num_rows) == (0, 0)
        check_plan(plan, [], empty)


def test_arrays_are_int32():
    plan = random_batch(7).plan(CostModel(max_item_tokens=16))
    for name in (
        "item_rows",
        "item_row_starts",
        "item_slots",
        "item_slot_starts",
        "item_start_positions",
        "row_states",
        "row_state_starts",
    ):
        assert getattr(plan, name).dtype == np.int32, name


def test_cost_models_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="negative"):
        CostModel(token_cost=-1)
    with pytest.raises(ValueError, match="max_item_tokens"):
        CostModel(max_item_tokens=0)
