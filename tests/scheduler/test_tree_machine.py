"""The tree alone, anything in any order, against a naive model: every prefix that it should hold.

The model writes each token's own path into its slot when it is computed, so a slot that two tokens
write, or that is given away while it is in use, shows at once.
"""

from collections import Counter
from typing import TypeVar

import numpy as np
import pytest
from tree_house import House, prefix
from tree_reader import Reader, Way, way_of, ways_between

from treeserve.errors import InvalidRequest
from treeserve.scheduler.tree.computed import insert_computed
from treeserve.scheduler.tree.path import Path
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.segment import Segment

ALPHABET = 2
TRUNKS = np.random.default_rng(7).integers(0, ALPHABET, (2, 16)).tolist()

T = TypeVar("T")

OPERATIONS = {
    "open_a_path": 8,
    "compute": 4,
    "draw": 12,
    "commit_and_close": 3,
    "adopt": 8,
    "abort": 1,
    "restore": 1.5,
    "evict": 2,
    "clear": 0.1,
    "retain": 2,
    "release_retained": 0.7,
    "pass_time": 1,
}
"""And how often each is done."""


RARE = (
    "no room",
    "two segments",
    "commit something",
    "commit nothing new",
    "commit below pending",
    "adopt what is held",
    "adopt with a pending end",
    "adopt below pending",
    "tail in a shared page",
    "evict a part",
    "retained again",
    "restore into two segments",
    "restore beneath pending",
    "over budget",
)


class Traffic:
    """The model is `known`: for each token held, whether it is computed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        page_size = (1, 3, 4)[seed % 3]
        num_slots = (48, 96, 1200)[seed // 3 % 3]
        self.has_ample_budget = seed % 2 == 0
        budget = 100_000 if self.has_ample_budget else 9
        self.house = House(num_slots // page_size, page_size, budget)
        self.tree, self.pool = self.house.tree, self.house.pool
        self.known: dict[Way, bool] = {}
        self.readers: list[Reader] = []
        self.paper: dict[int, Way] = {}
        self.retained: dict[int, tuple[Prefix, float]] = {}
        self.held_at_first: dict[int, int] = {}
        self.num_evicted = 0
        self.seen: Counter[str] = Counter()

    def run(self, num_operations: int) -> None:
        names = list(OPERATIONS)
        weights = np.array(list(OPERATIONS.values()))
        for name in self.random.choice(names, num_operations, p=weights / weights.sum()):
            getattr(self, name)()
            self.check()
        for reader in list(self.readers):
            self.close(reader)
        self.check()
        self.tree.clear()
        assert self.pool.num_free == self.pool.num_pages
        assert self.tree.segments() == []
        assert self.tree.num_retained_tokens == 0

    def open_a_path(self) -> None:
        wanted = self.some_prefix()
        way = way_of(wanted)
        num_known = self.count_known(way)
        location = self.tree.locate(wanted)
        assert (location.num_matched, location.num_computed) == num_known
        matched = self.tree.match(wanted)
        assert matched.end_position == num_known[0]
        self.tree.pin(matched)
        self.readers.append(Reader(matched, way[: num_known[0]], wanted.namespace))
        num_pages = self.tree.num_missing_pages(matched, wanted)
        if num_known[0] == len(way):
            assert num_pages == 0
        else:
            room = self.pool.num_free + self.tree.num_evictable_pages
            leaf = self.tree.insert_pending(matched, wanted)
            assert (leaf is not None) == (num_pages <= room)
            self.seen["no room"] += leaf is None
            self.reconcile(set() if leaf is None else ways_between(way, num_known[0]))
            if leaf is not None:
                self.tree.pin(leaf)
                self.seen["two segments"] += leaf.parent is not matched
                self.tree.unpin(matched)
                self.readers[-1] = Reader(leaf, way, wanted.namespace)
        reader = self.readers[-1]
        self.tree.count_hit(reader.leaf)
        self.compute_path(reader, int(self.random.choice([99, 99, 0, 3])))
        if len(self.readers) > 5:
            self.close(self.some(self.readers))

    def compute(self) -> None:
        if self.readers:
            self.compute_path(self.some(self.readers), int(self.random.integers(1, 10)))

    def draw(self) -> None:
        if not self.ready():
            return
        reader = self.some(self.ready())
        for token in self.some_continuation(reader):
            self.compute_tail(reader)
            if len(reader.drawn) == len(reader.slots):
                pages = self.tree.allocate(1)
                self.reconcile(set())
                if pages is None:
                    return
                reader.pages += pages.tolist()
                reader.slots += self.pool.slots(pages).tolist()
            reader.drawn.append(token)

    def commit_and_close(self) -> None:
        if not self.ready():
            return
        reader = self.some(self.ready())
        count = reader.num_computed
        if count:
            ways = [reader.way_after(j + 1) for j in range(count)]
            new = {way for way in ways if way not in self.known}
            if not all(self.known.get(way, True) for way in ways):
                new = set()
                self.seen["commit below pending"] += 1
            num_new = self.tree.commit(
                reader.leaf,
                np.array(reader.drawn[:count], dtype=np.int32),
                np.array(reader.slots[:count], dtype=np.int32),
                reader.page_ids(),
                reader.namespace,
            )
            assert num_new == len(new)
            self.seen["commit something" if new else "commit nothing new"] += 1
            self.known.update(dict.fromkeys(new, True))
        self.close(reader)

    def adopt(self) -> None:
        if not self.ready():
            return
        reader = self.some(self.ready())
        count = int(self.random.integers(0, len(reader.drawn) + 1))
        if self.random.random() < 0.3:
            self.compute_tail(reader)
        num_computed = min(count, reader.num_computed)
        ways = [reader.way_after(j + 1) for j in range(count)]
        waits = not all(self.known.get(way, True) for way in ways)
        leaf = self.tree.adopt(
            reader.leaf,
            np.array(reader.drawn[:count], dtype=np.int32),
            np.array(reader.slots[:count], dtype=np.int32),
            reader.page_ids(),
            num_computed,
            reader.namespace,
        )
        assert leaf.end_position == len(reader.way) + count
        self.seen["adopt what is held"] += count > 0 and all(way in self.known for way in ways)
        self.seen["adopt with a pending end"] += leaf.is_pending and leaf.num_computed > 0
        self.seen["adopt below pending"] += waits and leaf.num_computed == 0
        for j, way in enumerate(ways):
            self.known.setdefault(way, j < num_computed and not waits)
        self.tree.pin(leaf)
        self.tree.unpin(reader.leaf)
        self.move_tail(reader, leaf, count)
        self.seen["tail in a shared page"] += len({*reader.pages} & {*leaf.pages.tolist()})

    def abort(self) -> None:
        if self.readers:
            self.close(self.some(self.readers))

    def restore(self) -> None:
        wanted = self.some_prefix()
        wanted = prefix(wanted.tokens.tolist(), wanted.namespace)
        way = way_of(wanted)
        num_known, num_computed = self.count_known(way)
        written: list[int] = []

        def write(slots: np.ndarray, start: int) -> None:
            self.reconcile(ways_between(way, num_known))
            for j, slot in enumerate(slots.tolist(), start):
                self.paper[slot] = way[: j + 1]
                self.known[way[: j + 1]] = True
                written.append(j)

        num_segments = len(self.tree.segments())
        inserted = insert_computed(self.tree, wanted, write)
        self.reconcile(set())
        assert inserted.num_inserted == len(written)
        if num_computed < num_known:
            assert (inserted.num_pending_end, written) == (num_known, [])
            self.seen["restore beneath pending"] += 1
        elif inserted.num_missing_pages:
            assert written == []
        else:
            assert written == list(range(num_known, len(way)))
            num_new = len(self.tree.segments()) - num_segments
            self.seen["restore into two segments"] += num_known == 0 and num_new >= 2

    def evict(self) -> None:
        num_pages = int(self.random.integers(1, 10))
        expected = min(num_pages, self.tree.num_evictable_pages)
        num_events = len(self.house.watcher.events)
        assert self.tree.evict(num_pages) == expected
        self.seen["evict a part"] += "truncated" in self.house.watcher.events[num_events:]
        self.reconcile(set())

    def clear(self) -> None:
        self.tree.clear()
        self.reconcile(set())
        assert self.tree.num_evictable_pages == 0
        pinned = {way[: i + 1] for way in self.pinned_ways() for i in range(len(way))}
        assert set(self.known) == pinned

    def retain(self) -> None:
        wanted, ttl = self.some_prefix(), int(self.random.integers(1, 30))
        weight = float(self.random.choice([0.5, 4.0]))
        used = self.tree.num_retained_tokens
        location = self.tree.locate(wanted)
        new = ways_between(way_of(wanted)[: location.num_matched], 0) - self.marked()
        if used + len(new) > (100_000 if self.has_ample_budget else 9):
            self.seen["over budget"] += 1
            with pytest.raises(InvalidRequest, match=f"{len(new)} cached.* {used} of the"):
                self.tree.retain(wanted, weight, ttl)
            return
        retained = self.tree.retain(wanted, weight, ttl)
        self.retained[retained.retained_id] = (wanted, self.house.now + ttl)
        self.held_at_first[retained.retained_id] = retained.num_held_tokens
        assert retained.num_held_tokens == self.count_known(way_of(wanted))[0]

    def release_retained(self) -> None:
        if not self.retained:
            return
        retained_id = self.some(list(self.retained))
        del self.retained[retained_id]
        assert self.tree.release_retained(retained_id)
        assert not self.tree.release_retained(retained_id)

    def pass_time(self) -> None:
        self.house.now += int(self.random.integers(1, 12))
        expired = self.tree.expire(self.house.now)
        over = {i for i, (_, expires_at) in self.retained.items() if expires_at <= self.house.now}
        assert set(expired) == over
        for retained_id in over:
            del self.retained[retained_id]

    def check(self) -> None:
        self.house.tails = [reader.page_ids() for reader in self.readers]
        self.house.check()
        assert self.content() == self.known
        retained = {r.retained_id: r for r in self.tree.retained()}
        assert retained.keys() == self.retained.keys()
        for retained_id, (wanted, _) in self.retained.items():
            num_held = retained[retained_id].num_held_tokens
            num_known = self.count_known(way_of(wanted))[0]
            self.seen["retained again"] += num_held > self.held_at_first[retained_id]
            assert num_held == num_known if self.has_ample_budget else num_held <= num_known
        assert self.tree.num_retained_tokens == len(self.marked())

    def marked(self) -> set[Way]:
        """What the retained prefixes say that they hold."""
        ways = [way_of(r.prefix)[: r.num_held_tokens] for r in self.tree.retained()]
        return {way for each in ways for way in ways_between(each, 0)}

    def some_prefix(self) -> Prefix:
        trunk = TRUNKS[self.random.integers(len(TRUNKS))]
        suffix = self.some_tokens(6) if self.random.random() < 0.5 else []
        values = [*trunk[: self.random.integers(0, 17)], *suffix] or [0]
        namespace = str(self.random.choice(["a", "a", "a", "b"]))
        num_public = int(self.random.choice([0, 0, 3, 8, len(values)]))
        return prefix(values, namespace, min(num_public, len(values)))

    def some_tokens(self, limit: int) -> list[int]:
        return self.random.integers(0, ALPHABET, self.random.integers(0, limit)).tolist()

    def some_continuation(self, reader: Reader) -> list[int]:
        """Often what a prompt says too, so that tails meet what others cached or compute."""
        context = [token for _, token in reader.way] + reader.drawn
        for trunk in TRUNKS:
            if self.random.random() < 0.9 and trunk[: len(context)] == context:
                return trunk[len(context) : len(context) + self.random.integers(1, 9)]
        return self.some_tokens(7)

    def some(self, values: list[T]) -> T:
        return values[self.random.integers(len(values))]

    def ready(self) -> list[Reader]:
        return [r for r in self.readers if r.leaf.parent is not None and not r.leaf.is_pending]

    def count_known(self, way: Way) -> tuple[int, int]:
        """Of the first tokens: how many are held, how many are computed."""
        held = [way[: i + 1] in self.known for i in range(len(way))]
        computed = [self.known.get(way[: i + 1], False) for i in range(len(way))]
        return [*held, False].index(False), [*computed, False].index(False)

    def content(self) -> dict[Way, bool]:
        found: dict[Way, bool] = {}
        ways: dict[Segment, Way] = {}
        for segment in self.tree.segments():
            way = ways.get(segment.parent, ())
            for j, token in enumerate(segment.tokens.tolist()):
                way = (*way, (segment.namespace, token))
                assert way not in found, "the tree holds a token twice"
                found[way] = j < segment.num_computed
                if found[way]:
                    assert self.paper[int(segment.slots[j])] == way, "another wrote this slot"
            ways[segment] = way
        return found

    def reconcile(self, inserted: set[Way]) -> None:
        """After what may evict: only unpinned tokens left, and they were counted."""
        content = self.content()
        lost = self.known.keys() - content.keys()
        num_evicted = self.tree.num_evicted_tokens
        assert len(lost) == num_evicted - self.num_evicted, "evicted tokens are miscounted"
        assert all(self.known[way] for way in lost)
        assert not lost & {w[: i + 1] for w in self.pinned_ways() for i in range(len(w))}
        for way in lost:
            del self.known[way]
        self.known.update(dict.fromkeys(inserted, False))
        self.num_evicted = num_evicted
        assert content == self.known

    def pinned_ways(self) -> list[Way]:
        return [reader.way for reader in self.readers]

    def compute_path(self, reader: Reader, num_tokens: int) -> None:
        for segment in Path(reader.leaf).segments():
            start = segment.num_computed
            self.tree.mark_computed(segment, min(len(segment), start + num_tokens))
            num_tokens -= segment.num_computed - start
            for j in range(start, segment.num_computed):
                way = reader.way[: segment.start_position + j + 1]
                self.paper[int(segment.slots[j])] = way
                self.known[way] = True

    def compute_tail(self, reader: Reader) -> None:
        for j in range(reader.num_computed, len(reader.drawn)):
            self.paper[reader.slots[j]] = reader.way_after(j + 1)
        reader.num_computed = len(reader.drawn)

    def move_tail(self, reader: Reader, leaf: Segment, count: int) -> None:
        reader.leaf, reader.way = leaf, reader.way_after(count)
        reader.drawn, reader.slots = reader.drawn[count:], reader.slots[count:]
        reader.num_computed = max(0, reader.num_computed - count)
        needed = {slot // self.pool.page_size for slot in reader.slots}
        released = [page for page in reader.pages if page not in needed]
        self.pool.release(np.array(released, dtype=np.int32))
        reader.pages = [page for page in reader.pages if page in needed]

    def close(self, reader: Reader) -> None:
        self.pool.release(reader.page_ids())
        self.tree.unpin(reader.leaf)
        self.readers.remove(reader)
        needed = {way[: i + 1] for way in self.pinned_ways() for i in range(len(way))}
        self.known = {w: done for w, done in self.known.items() if done or w in needed}


@pytest.mark.parametrize("seed", range(16))
def test_the_tree_holds_what_a_naive_model_holds(seed):
    Traffic(seed).run(300)


def test_the_random_operations_visit_what_is_rare():
    traffic = [Traffic(1000 + seed) for seed in range(28)]
    for each in traffic:
        each.run(250)
    seen = sum((each.seen for each in traffic), Counter())
    print(dict(seen))
    for rare in RARE:
        assert seen[rare] >= 3, f"{rare} hardly ever happens"
