"""One plan after another, as samples join, grow, fork and leave over a real radix tree."""

import itertools

import numpy as np
import pytest

from treeserve.scheduler.plan.check import check_plan
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.planner import STALE_TOKENS, Planner
from treeserve.scheduler.plan.trie import Chunk
from treeserve.scheduler.step import Plan
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Segment

COST_MODEL = CostModel(token_cost=1, state_cost=2, item_cost=8)
MERGING = CostModel(token_cost=1, state_cost=2, item_cost=0, sharing_cost=300)


class Sample:
    """What it has drawn follows its leaf, which moves when a part of that goes to the tree."""

    def __init__(self, leaf: Segment, tokens: list[int]) -> None:
        self.leaf = leaf
        self.tail = Tail(leaf.end_position, 1000, 0)
        self.tokens = tokens


class Samples:
    """Samples over a radix tree, as a scheduler would keep them."""

    def __init__(self, page_size: int = 4, num_pages: int = 20_000) -> None:
        self.pool = PagePool(num_pages, page_size)
        self.tree = RadixTree(self.pool, KeptLogits(1))
        self.running: list[Sample] = []

    def join(self, prompt: list[int], n: int = 1) -> None:
        """Samples with one token each after a prompt that is computed at once."""
        for _ in range(n):
            leaf = self.pin_computed(prompt)
            self.running.append(Sample(leaf, list(prompt)))
            self._draw(self.running[-1])

    def grow(self) -> None:
        for sample in self.running:
            self._draw(sample)

    def leave(self, row: int) -> None:
        """The last one takes its row; what it drew stays cached."""
        sample = self.running[row]
        self._commit(sample, sample.tail.num_computed)
        self.pool.release(sample.tail.pages)
        self.tree.unpin(sample.leaf)
        self.running[row] = self.running[-1]
        self.running.pop()

    def fork(self, row: int, num_tokens: int) -> None:
        """The first tokens of its tail are now the tree's, where another sample goes on."""
        sample = self.running[row]
        self._commit(sample, num_tokens)
        old, position = sample.leaf, sample.leaf.end_position + num_tokens
        sample.leaf = self.pin_computed(sample.tokens[:position])
        self.tree.unpin(old)
        sample.tail.drop_first(num_tokens, self.pool)
        self.join(sample.tokens[:position])

    def chunk(self, prompt: list[int], num_rows: int) -> Chunk:
        """The rows that compute a prompt's last tokens but one."""
        leaf = self.pin_computed(prompt)
        self.tree.unpin(leaf)
        end = max(1, leaf.end_position - 1)
        return Chunk(leaf, len(self.running), min(num_rows, end), end)

    def positions(self, *chunks: Chunk) -> np.ndarray:
        decoding = [sample.tail.end_position - 1 for sample in self.running]
        runs = [np.arange(c.end_position - c.num_rows, c.end_position) for c in chunks]
        return np.concatenate([decoding, *runs]).astype(np.int32)

    def pin_computed(self, tokens: list[int]) -> Segment:
        prefix = Prefix(np.array(tokens, dtype=np.int32))
        leaf = self.tree.match(prefix)
        self.tree.pin(leaf)
        if leaf.end_position < len(prefix):
            matched, leaf = leaf, self.tree.insert_pending(leaf, prefix)
            assert leaf is not None
            self.tree.mark_computed(leaf, len(leaf))
            self.tree.pin(leaf)
            self.tree.unpin(matched)
        return leaf

    def _commit(self, sample: Sample, num_tokens: int) -> None:
        tail = sample.tail
        tokens = np.array(tail.tokens[:num_tokens], dtype=np.int32)
        if num_tokens:
            slots = tail.page_slots[:num_tokens]
            self.tree.commit(sample.leaf, tokens, slots, tail.pages, "")

    def _draw(self, sample: Sample) -> None:
        token = len(sample.tokens) * 7 % 3
        sample.tokens.append(token)
        sample.tail.tokens.append(token)
        if sample.tail.needs_page:
            pages = self.tree.allocate(1)
            assert pages is not None
            sample.tail.grow(pages, self.pool.slots(pages))


def checked(planner: Planner, samples: Samples, *chunks: Chunk) -> Plan:
    positions = samples.positions(*chunks)
    plan = planner.plan(samples.running, chunks, positions)
    check_plan(plan, samples.running, chunks, positions)
    return plan


def what_it_reads(plan: Plan) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """(start position, slots, rows) of every item, wherever they lie."""
    row_spans = itertools.pairwise(plan.item_row_starts.tolist())
    rows = [tuple(plan.item_rows[start:end].tolist()) for start, end in row_spans]
    spans = zip(plan.item_slot_starts.tolist(), plan.item_slot_ends.tolist(), strict=True)
    slots = [tuple(plan.item_slots[start:end].tolist()) for start, end in spans]
    starts = plan.item_start_positions.tolist()
    return sorted(zip(starts, slots, rows, strict=True))


class Traffic:
    """Random members for hundreds of steps; each plan is compared with a fresh planner's."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.samples = Samples(page_size=int(self.random.choice([1, 4, 16])))
        self.sharing = ("on", "on", "always", "off")[seed % 4]
        self.cost_model = MERGING if seed % 4 == 1 else COST_MODEL
        self.planner = Planner(self.cost_model, self.sharing)
        self.origins: list[str] = []

    def step(self) -> None:
        before = list(self.samples.running)
        had_leaves = [sample.leaf for sample in before]
        self.samples.grow()
        self._change()
        running = self.samples.running
        same = running == before and had_leaves == [sample.leaf for sample in running]
        chunks = []
        if self.random.random() < 0.1:
            prompt = self._prompt()
            chunks = [self.samples.chunk(prompt, int(self.random.integers(1, 30)))]
        positions = self.samples.positions(*chunks)
        plan = self.planner.plan(running, chunks, positions)
        check_plan(plan, running, chunks, positions)
        fresh = Planner(self.cost_model, self.sharing).plan(running, chunks, positions)
        assert what_it_reads(plan) == what_it_reads(fresh)
        assert plan.counts.predicted_cost == pytest.approx(fresh.counts.predicted_cost)
        assert plan.counts.tokens_read == fresh.counts.tokens_read
        assert plan.counts.tokens_read_flat == fresh.counts.tokens_read_flat
        if not same or chunks:
            assert plan.counts.origin == "rebuilt"
        self.origins.append(plan.counts.origin)

    def _change(self) -> None:
        running, draw = self.samples.running, self.random.random()
        if draw < 0.08 and len(running) < 25:
            self.samples.join(self._prompt(), n=int(self.random.choice([1, 1, 1, 6])))
        elif draw < 0.16 and running:
            self.samples.leave(int(self.random.integers(len(running))))
        elif draw < 0.20 and running:
            row = int(self.random.integers(len(running)))
            num_computed = running[row].tail.num_computed
            if num_computed > 0:
                self.samples.fork(row, int(self.random.integers(num_computed)) + 1)
        elif draw < 0.25:
            self.samples.tree.clear()
        elif draw < 0.30:
            # Found, and split where it ends; nobody stays.
            self.samples.tree.unpin(self.samples.pin_computed(self._prompt()))

    def _prompt(self) -> list[int]:
        running = self.samples.running
        if not running or self.random.random() < 0.2:
            return self.random.integers(0, 3, self.random.integers(1, 60)).tolist()
        tokens = running[self.random.integers(len(running))].tokens
        kept = tokens[: self.random.integers(1, min(len(tokens), 250) + 1)]
        return kept + self.random.integers(0, 3, self.random.integers(0, 20)).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_that_goes_on_is_what_a_fresh_one_would_be(seed):
    traffic = Traffic(seed)
    for _ in range(300):
        traffic.step()
    assert traffic.origins.count("reused") > 100
    assert traffic.origins.count("rebuilt") > 50


def test_steady_samples_keep_their_plan():
    samples = Samples()
    samples.join(list(range(100)), n=5)
    samples.join([*range(50), 7, 8, 9])
    planner = Planner(COST_MODEL, "on")
    first = checked(planner, samples)
    for _ in range(500):
        samples.grow()
        plan = checked(planner, samples)
        assert plan.counts.origin == "reused"
        for name in ("item_rows", "item_row_starts", "item_start_positions"):
            assert getattr(plan, name) is getattr(first, name), name
        assert plan.row_states is first.row_states
        assert plan.row_state_starts is first.row_state_starts


def test_another_order_is_another_plan():
    samples = Samples()
    samples.join(list(range(100)), n=2)
    samples.join([*range(50), 7, 8, 9])
    planner = Planner(COST_MODEL, "on")
    checked(planner, samples)
    samples.grow()
    samples.running.reverse()
    assert checked(planner, samples).counts.origin == "rebuilt"


def test_a_tail_that_begins_anew_is_another_plan():
    """As after a preemption: the same leaf, and other pages."""
    samples = Samples()
    samples.join(list(range(100)), n=3)
    planner = Planner(COST_MODEL, "on")
    checked(planner, samples)
    sample = samples.running[1]
    held, sample.tail = sample.tail, Tail(100, 1000, 0)
    sample.tail.tokens = list(held.tokens)
    pages = samples.tree.allocate(1)
    sample.tail.grow(pages, samples.pool.slots(pages))
    samples.grow()
    assert checked(planner, samples).counts.origin == "rebuilt"


def test_a_split_above_does_not_disturb_a_plan():
    samples = Samples()
    prompt = list(range(100))
    samples.join(prompt, n=3)
    planner = Planner(COST_MODEL, "on")
    checked(planner, samples)
    leaf = samples.running[0].leaf
    samples.tree.split(leaf, 40)
    samples.grow()
    assert checked(planner, samples).counts.origin == "reused"
    assert {segment.num_rows for segment in planner.snapshot().segments} == {3}
    assert [s.end_position for s in planner.snapshot().segments] == [40, 100]
    samples.join(prompt[:40])
    samples.grow()
    assert checked(planner, samples).counts.origin == "rebuilt"


def test_a_plan_skipped_is_made_anew():
    """Two tokens longer than the last plan's, the samples are not where it left them."""
    samples = Samples()
    samples.join(list(range(100)), n=3)
    planner = Planner(COST_MODEL, "on")
    checked(planner, samples)
    samples.grow()
    samples.grow()
    assert checked(planner, samples).counts.origin == "rebuilt"


def test_cuts_grow_stale_within_limits():
    samples = Samples(page_size=16)
    samples.join(list(range(100)), n=3)
    cost_model = CostModel(token_cost=1, state_cost=2, item_cost=8, max_item_tokens=32)
    planner = Planner(cost_model, "on")
    origins = []
    for _ in range(1000):
        plan = checked(planner, samples)
        origins.append(plan.counts.origin)
        longest = int((plan.item_slot_ends - plan.item_slot_starts).max())
        assert longest <= cost_model.max_item_tokens + STALE_TOKENS
        samples.grow()
    assert 3 <= origins.count("rebuilt") <= 1 + 1000 // STALE_TOKENS


def test_samples_that_stay_are_not_copied_again():
    samples = Samples()
    samples.join(list(range(100)), n=4)
    planner = Planner(COST_MODEL, "on")
    samples.join([1, 2, 3])
    before = checked(planner, samples)
    places = before.item_slot_starts.tolist()
    samples.grow()
    samples.leave(4)
    assert places[:5] == checked(planner, samples).item_slot_starts.tolist()


def test_the_arena_does_not_outgrow_what_is_read():
    random = np.random.default_rng(0)
    samples = Samples(page_size=16, num_pages=50_000)
    planner = Planner(COST_MODEL, "on")
    for step in range(600):
        samples.grow()
        if step % 3 == 0:
            samples.join(random.integers(0, 9, 200).tolist())
        if len(samples.running) > 60:
            samples.leave(int(random.integers(60)))
        plan = planner.plan(samples.running, [], samples.positions())
    assert len(plan.item_slots) < 3 * plan.counts.tokens_read
    checked(planner, samples)


def test_what_is_no_longer_shared_or_computed_gives_its_place_back():
    random = np.random.default_rng(0)
    samples = Samples(page_size=16, num_pages=50_000)
    samples.join([1] * 500)
    planner = Planner(COST_MODEL, "on")
    for _ in range(300):
        prompt = random.integers(0, 9, 700).tolist()
        samples.join(prompt, n=2)
        checked(planner, samples, samples.chunk(random.integers(0, 9, 700).tolist(), 20))
        samples.leave(1)
        samples.leave(1)
        samples.tree.clear()
        plan = checked(planner, samples)
    assert len(plan.item_slots) < 30_000


def test_the_snapshot_says_what_was_decided_and_why():
    samples = Samples()
    trunk = [1] * 100
    samples.join([*trunk, 2], n=3)
    samples.join([*trunk, 3], n=3)
    planner = Planner(COST_MODEL, "on")
    assert planner.snapshot().segments == ()
    checked(planner, samples)
    snapshot = planner.snapshot()
    shared, *folded = snapshot.segments
    assert (shared.start_position, shared.end_position, shared.num_rows) == (0, 100, 6)
    assert (shared.decision, shared.num_pieces) == ("own", 1)
    assert shared.own_cost < shared.folded_cost
    assert "own item is cheaper for 6 rows" in shared.reason
    assert f"{shared.own_cost:.6g}" in shared.reason
    assert [(f.decision, f.num_rows, f.num_pieces) for f in folded] == [("folded", 3, 0)] * 2
    assert all(f.own_cost >= f.folded_cost for f in folded)
    assert snapshot.num_plain_items == 6
    assert len({segment.serial for segment in snapshot.segments}) == 3
    always = Planner(COST_MODEL, "always")
    checked(always, samples)
    assert {s.decision for s in always.snapshot().segments} == {"own"}
    assert "always on" in always.snapshot().segments[0].reason
    off = Planner(COST_MODEL, "off")
    checked(off, samples)
    assert off.snapshot().segments == ()
    assert off.snapshot().num_plain_items == 6


def test_the_snapshot_says_what_merging_would_have_to_be_paid_with():
    samples = Samples()
    samples.join([1] * 100, n=3)
    planner = Planner(MERGING, "on")
    checked(planner, samples)
    snapshot = planner.snapshot()
    [folded] = snapshot.segments
    assert folded.decision == "folded"
    assert folded.own_cost < folded.folded_cost
    assert folded.reason.endswith(
        "the step as a whole: sharing would save 194, and merging costs 300"
    )
    assert (snapshot.saved_cost, snapshot.merging_cost) == (200 - 3 * 2, 300)
    samples.join([2] * 100, n=3)
    checked(planner, samples)
    assert [s.decision for s in planner.snapshot().segments] == ["own", "own"]
    reason = planner.snapshot().segments[0].reason
    assert reason.endswith("the step as a whole: sharing saves 388, and merging costs 300")


def test_nothing_is_said_of_merging_where_it_is_free():
    samples = Samples()
    samples.join([1] * 100, n=3)
    planner = Planner(COST_MODEL, "on")
    checked(planner, samples)
    assert "as a whole" not in planner.snapshot().segments[0].reason


def test_new_costs_decide_from_the_next_plan_on_though_the_samples_are_the_same():
    samples = Samples()
    samples.join(list(range(100)), n=4)
    planner = Planner(COST_MODEL, "on")
    positions = samples.positions()
    shared = planner.plan(samples.running, [], positions)
    samples.grow()
    planner.use_costs(CostModel(token_cost=1, state_cost=2, item_cost=0, sharing_cost=1e9))
    plain = planner.plan(samples.running, [], positions + 1)
    assert (shared.counts.num_shared_items, plain.counts.num_shared_items) == (1, 0)
    assert plain.counts.origin == "rebuilt"
