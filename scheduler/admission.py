"""Admission: pages for prompts and tails, what is promised of them, and who gives them up."""

from collections import Counter
from collections.abc import Sequence
from math import ceil, isnan

import numpy as np

from treeserve.errors import InvalidRequest
from treeserve.scheduler.awaiting import Awaiting
from treeserve.scheduler.live import LiveRequest, LiveSample
from treeserve.scheduler.modules import ModuleSet, check_module_set
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.rows import DecodeRows
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.imports import import_modules
from treeserve.scheduler.tree.path import Path
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE, Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Segment


class Admission:
    """Free and evictable pages together always cover what is promised to running tails.

    A prompt's missing pages are taken when its first sample starts, deduplicated: what the tree
    holds, computed or pending, is pinned and costs nothing more. A tail is promised a part of the
    pages that it may need in the end, `reserve`, and takes pages one by one. With a reserve of 1
    it can always go on; with less, the samples that started last give their memory up when there
    is none left: what they have is committed to the tree, and they start again behind it.

    Only running samples hold memory, so a sample that runs alone can have the whole pool; and the
    modules that the first of those who wait will read, until a running sample needs their room.
    """

    def __init__(
        self,
        pool: PagePool,
        tree: RadixTree,
        rows: DecodeRows,
        awaiting: Awaiting,
        *,
        max_running: int,
        reserve: float,
    ) -> None:
        self._pool = pool
        self._tree = tree
        self._rows = rows
        self._awaiting = awaiting
        self._max_running = max_running
        self._reserve = reserve
        self._num_started = 0
        self._num_unpromised = 0
        self.num_running = 0
        self.num_reserved_pages = 0
        self.num_preempted = 0
        """Since the start."""
        self.held: dict[Segment, None] = {}
        """Modules that are pinned for one who has not started."""

    @property
    def num_room_pages(self) -> int:
        """Pages that are promised to nobody."""
        return self._pool.num_free + self._tree.num_evictable_pages - self.num_reserved_pages

    @property
    def is_full(self) -> bool:
        """Whether nobody can start, however small."""
        return self.num_running >= self._max_running

    def require_possible(self, request: ScheduledRequest) -> None:
        """Raises InvalidRequest where even an empty pool would not do."""
        _require_sensible(request)
        num_slots = self._pool.num_pages * self._pool.page_size
        limit = f"the pool holds {num_slots} tokens in pages of {self._pool.page_size}"
        length = len(request.prompt)
        if self._pool.pages_for(length) > self._pool.num_pages:
            raise InvalidRequest("prompt", f"has {length} tokens, and {limit}")
        # One page more, since a sample that starts again leaves its tail's first page half empty.
        num_pages = self._pool.pages_for(length + request.max_tokens - 1)
        num_pages += 1 if request.max_tokens > 1 else 0
        if request.modules is not None:
            self._require_modules(request, request.modules, num_pages)
        elif num_pages > self._pool.num_pages:
            raise InvalidRequest(
                "max_tokens",
                f"{request.max_tokens} tokens after a prompt of {length} do not fit: {limit}",
            )

    def hold(self, module: Segment) -> bool:
        """Pins a module for one who waits, once; False: no room."""
        if module not in self.held:
            if module.pins == 0 and not self.has_room_for(len(module)):
                return False
            self._tree.pin(module)
            self.held[module] = None
        return True

    def release_held(self) -> None:
        """Those that nobody has encoded in whole leave the tree."""
        held, self.held = self.held, {}
        for module in held:
            self._tree.unpin(module)

    def has_room_for(self, num_tokens: int) -> bool:
        """Whether so many tokens in pages of their own would take none that tails need soon."""
        return self._has_room(self._pool.pages_for(num_tokens))

    def start(self, request: LiveRequest) -> LiveSample | None:
        """Starts the request's next sample, or starts a preempted one again; None: no room.

        The modules that it imports are computed.
        """
        if self.is_full:
            return None
        sample = self._next_sample(request)
        num_left = request.request.max_tokens - len(sample.earlier)
        promised = self._num_promised(num_left)
        leaf = self._pin_leaf(sample, promised)
        if leaf is None:
            return None
        self._num_started += 1
        if request.preempted.pop(sample.index, None) is None:
            request.unstarted.pop()
        sample.leaf, sample.tail = leaf, Tail(leaf.end_position, num_left, promised)
        request.running[sample.index] = sample
        if not sample.earlier:
            request.trunk = leaf
        self.num_running += 1
        self.num_reserved_pages += promised
        self._num_unpromised += sample.tail.may_outgrow_promise
        self._awaiting.join(sample)
        return sample

    def must_preempt(self) -> bool:
        """Whether `grow` would preempt somebody."""
        return self._needy_rows()[1] > self.num_room_pages

    def grow(self) -> list[LiveSample]:
        """Gives a page to every row that needs one; returns who was preempted for that.

        Nobody is preempted with a token that was not read: without it he could not start again.
        """
        preempted: list[LiveSample] = []
        by_age: list[LiveSample] | None = None
        while (needy := self._needy_rows())[1] > self.num_room_pages:
            if self.held:
                self.release_held()
                continue
            by_age = self._running_by_age() if by_age is None else by_age
            preempted.append(self._preempt(by_age.pop()))
        rows = needy[0]
        pages = self._tree.allocate(len(rows))
        assert pages is not None, "a promised page is not there"
        slots = self._pool.slots(pages).reshape(len(rows), self._pool.page_size)
        for index, row in enumerate(rows):
            tail = self._rows.samples[row].tail
            if tail.num_outstanding_pages:
                self.num_reserved_pages -= 1
            else:
                self._num_unpromised -= 1
            tail.grow(pages[index : index + 1], slots[index])
            self._num_unpromised += tail.may_outgrow_promise
        self._rows.set_slots(rows, slots[:, 0])
        return preempted

    def branch(self, sample: LiveSample, num_drawn: int) -> None:
        """Moves what the sample drew before the branch into the tree; copies and computes nothing.

        A last token that has no slot yet or was not read stays with the sample, and so does
        everything while another sample is computing the same tokens, or where the tree holds the
        same tokens in pages that are promised to others: branches then compute for themselves what
        they miss.
        """
        tail = sample.tail
        num_tokens = num_drawn - len(sample.earlier)
        if num_tokens == tail.num_tokens and tail.needs_page:
            num_tokens -= 1
        if num_tokens <= 0:
            return
        leaf = self._pin_branch(sample, num_tokens)
        if leaf is None:
            return
        self._tree.unpin(sample.leaf)
        sample.leaf = leaf
        sample.earlier = sample.earlier + tail.tokens[:num_tokens]
        tail.drop_first(num_tokens, self._pool)
        if not tail.tokens:
            self._rows.leave(sample)
            self._awaiting.join(sample)

    def end_sample(self, sample: LiveSample) -> None:
        """The sample leaves; what it computed stays cached until it is evicted."""
        self._commit(sample)
        self.drop_sample(sample)

    def drop_sample(self, sample: LiveSample) -> None:
        """The sample leaves, and nothing of its tail stays."""
        tail, request = sample.tail, sample.request
        if tail.tokens:
            self._rows.leave(sample)
        else:
            self._awaiting.leave(sample)
        self._pool.release(tail.pages)
        self._tree.unpin(sample.leaf)
        self.num_reserved_pages -= tail.num_outstanding_pages
        self._num_unpromised -= tail.may_outgrow_promise
        self.num_running -= 1
        del request.running[sample.index]
        if not request.running:
            request.trunk = None

    def check(self, requests: Sequence[LiveRequest]) -> None:
        """Raises AssertionError unless promises and pins are those of the running samples."""
        samples = [s for request in requests for s in request.running.values()]
        assert len(samples) == self.num_running <= self._max_running, "running is miscounted"
        num_drawing = len(self._rows) + len(self._rows.resting)
        assert num_drawing + len(self._awaiting) == len(samples), "a sample is nowhere"
        outstanding = [s.tail.num_outstanding_pages for s in samples]
        assert sum(outstanding) == self.num_reserved_pages, "reserved pages are miscounted"
        num_unpromised = sum(s.tail.may_outgrow_promise for s in samples)
        assert num_unpromised == self._num_unpromised, "unpromised tails are miscounted"
        assert self.num_room_pages >= 0, "more pages are promised than there are"
        pins: Counter[Segment] = Counter(self.held.keys())
        for sample in samples:
            assert sample.leaf.end_position == sample.tail.start_position, "a tail left its leaf"
            num_tokens = len(sample.earlier) + sample.tail.max_tokens
            assert num_tokens == sample.request.request.max_tokens, "a sample lost tokens"
            path = Path(sample.leaf)
            path.check()
            pins.update(path.segments())
        assert {s: s.pins for s in self._tree.segments() if s.pins} == pins, "a pin is lost"

    def _require_modules(
        self, request: ScheduledRequest, modules: ModuleSet, num_own_pages: int
    ) -> None:
        check_module_set(modules, len(request.prompt))
        num_module_pages = sum(self._pool.pages_for(len(each)) for each in modules.modules)
        if num_module_pages + num_own_pages > self._pool.num_pages:
            raise InvalidRequest(
                "modules",
                f"{modules.num_tokens} tokens of modules take {num_module_pages} pages, the prompt "
                f"and {request.max_tokens} tokens after it up to {num_own_pages}, and the pool has "
                f"{self._pool.num_pages}; import fewer, or give the engine more pages",
            )

    def _next_sample(self, request: LiveRequest) -> LiveSample:
        if request.preempted:
            return min(request.preempted.values(), key=lambda sample: sample.serial)
        return LiveSample(request, request.unstarted[-1], self._num_started)

    def _pin_leaf(self, sample: LiveSample, promised: int) -> Segment | None:
        trunk = sample.request.trunk
        if trunk is not None and not sample.earlier:
            if not self._has_room(promised):
                return None
            self._tree.pin(trunk)
            return trunk
        prefix = sample.request.prefix_after(sample.earlier)
        modules, root = sample.request.request.modules, None
        if modules is not None:
            root = import_modules(self._tree, prefix, modules.modules)
        num_missing = len(prefix.tokens) - self._tree.locate(prefix).num_matched
        if not self._has_room(promised + self._pool.pages_for(num_missing)):
            return None
        leaf = self._pin_path(prefix, promised)
        assert leaf is None or root is None or leaf.root is root, "its modules were lost"
        return leaf

    def _pin_path(self, prefix: Prefix, promised: int) -> Segment | None:
        matched = self._tree.match(prefix)
        self._tree.pin(matched)
        if not self._has_room(promised + self._tree.num_missing_pages(matched, prefix)):
            self._tree.unpin(matched)
            return None
        if matched.end_position == len(prefix.tokens):
            return matched
        leaf = self._tree.insert_pending(matched, prefix)
        assert leaf is not None, "room that was counted is not there"
        self._tree.pin(leaf)
        self._tree.unpin(matched)
        return leaf

    def _pin_branch(self, sample: LiveSample, num_tokens: int) -> Segment | None:
        """Pins where the tail's first tokens end in the tree; None if they cannot move there."""
        tail, namespace = sample.tail, sample.request.request.namespace
        tokens = np.array(tail.tokens[:num_tokens], dtype=np.int32)
        matched = self._tree.match_after(sample.leaf, tokens, namespace)
        self._tree.pin(matched)
        leaf = None
        if self.num_room_pages >= 0:
            slots, num_computed = tail.page_slots[:num_tokens], min(num_tokens, tail.num_computed)
            leaf = self._tree.adopt(sample.leaf, tokens, slots, tail.pages, num_computed, namespace)
            self._tree.pin(leaf)
            if _num_pending(leaf) > num_tokens - num_computed:
                self._tree.unpin(leaf)
                leaf = None
        self._tree.unpin(matched)
        return leaf

    def _has_room(self, num_pages: int) -> bool:
        """Leaves a page for every tail that outgrows its promise, lest it is preempted soon."""
        headroom = self._num_unpromised if self._reserve < 1 else 0
        return num_pages + headroom <= self.num_room_pages

    def _num_promised(self, num_left: int) -> int:
        """The last drawn token is never computed and needs no slot."""
        num_pages = self._pool.pages_for(num_left - 1)
        return min(num_pages, max(1, ceil(self._reserve * num_pages)))

    def _needy_rows(self) -> tuple[list[int], int]:
        """Rows that need a page, and how many of them were not promised one."""
        rows = self._rows.without_slot().tolist()
        samples = self._rows.samples
        return rows, sum(samples[row].tail.num_outstanding_pages == 0 for row in rows)

    def _running_by_age(self) -> list[LiveSample]:
        """Who gives way first is last: the newest of the lowest priority."""
        running = [*self._rows.samples, *self._awaiting.all()]
        return sorted(running, key=lambda s: (-s.request.priority, s.serial))

    def _preempt(self, sample: LiveSample) -> LiveSample:
        assert not sample.tail.is_unread, f"{sample.key} is preempted with a token unread"
        request, drawn = sample.request, sample.drawn
        self.end_sample(sample)
        sample.earlier, sample.tail = drawn, Tail(0, 0, 0)
        request.preempted[sample.index] = sample
        self.num_preempted += 1
        return sample

    def _commit(self, sample: LiveSample) -> None:
        tail = sample.tail
        if tail.num_computed > 0:
            self._tree.commit(
                sample.leaf,
                tail.computed_tokens(),
                tail.computed_slots(),
                tail.pages,
                sample.request.request.namespace,
            )


def _num_pending(leaf: Segment) -> int:
    """Tokens on its path that are not computed, counted no further than matters to a branch."""
    num_pending = len(leaf) - leaf.num_computed
    is_pending_above = leaf.parent is not None and leaf.parent.is_pending
    return num_pending + (1 if is_pending_above else 0)


def _require_sensible(request: ScheduledRequest) -> None:
    if request.num_samples < 1:
        raise InvalidRequest("n", f"must be at least 1, got {request.num_samples}")
    if request.max_tokens < 1:
        raise InvalidRequest("max_tokens", f"must be at least 1, got {request.max_tokens}")
    if request.prompt.dtype != np.int32 or request.prompt.ndim != 1:
        raise ValueError("a prompt is an int32 array of one dimension")
    if len(request.prompt) < 1:
        raise InvalidRequest("prompt", "must have at least one token")
    if request.deadline is not None and isnan(request.deadline):
        raise InvalidRequest("deadline", "must be a time, got nan")
    if not 0 <= request.num_public_tokens <= len(request.prompt):
        raise ValueError(f"{request.num_public_tokens} public tokens of {len(request.prompt)}")
    if request.modules is not None and request.num_public_tokens:
        raise InvalidRequest("modules", "cannot be imported by a prompt with a public beginning")
    if request.namespace == PUBLIC_NAMESPACE:
        raise ValueError(f"the namespace {PUBLIC_NAMESPACE!r} is nobody's own")
