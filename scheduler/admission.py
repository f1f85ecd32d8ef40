"""Admission: pages for prompts and tails, and the promise that an admitted sample can finish."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from treeserve.errors import InvalidRequest
from treeserve.scheduler.live import LiveRequest, LiveSample
from treeserve.scheduler.path import Path
from treeserve.scheduler.pool import PagePool
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.segment import Segment
from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree import RadixTree


class Admission:
    """Free and evictable pages together always cover what running tails may still ask for.

    A prompt's missing pages are taken when it is admitted, deduplicated: what the tree holds,
    computed or pending, is pinned and costs nothing more. A tail's pages are reserved when its
    sample starts and taken one by one.
    """

    def __init__(self, pool: PagePool, tree: RadixTree, max_running: int) -> None:
        self._pool = pool
        self._tree = tree
        self._max_running = max_running
        self.num_running = 0
        self.num_reserved_pages = 0
        self.prompt_ends: dict[Segment, int] = {}
        """How many admitted prompts end with this segment."""

    @property
    def num_room_pages(self) -> int:
        """Pages that are promised to nobody."""
        return self._pool.num_free + self._tree.num_evictable_pages - self.num_reserved_pages

    def require_possible(self, request: ScheduledRequest) -> None:
        """Raises InvalidRequest where even an empty pool would not do."""
        if request.num_samples < 1:
            raise InvalidRequest("n", f"must be at least 1, got {request.num_samples}")
        if request.max_tokens < 1:
            raise InvalidRequest("max_tokens", f"must be at least 1, got {request.max_tokens}")
        if request.prompt.dtype != np.int32 or request.prompt.ndim != 1:
            raise ValueError("a prompt is an int32 array of one dimension")
        if len(request.prompt) < 1:
            raise InvalidRequest("prompt", "must have at least one token")
        limit = f"the pool holds {self._pool.num_pages * self._pool.page_size} tokens"
        left = self._pool.num_pages - self._pool.pages_for(len(request.prompt))
        if left < 0:
            raise InvalidRequest("prompt", f"has {len(request.prompt)} tokens, and {limit}")
        if self._tail_pages(request) > left:
            raise InvalidRequest(
                "max_tokens",
                f"{request.max_tokens} tokens after a prompt of {len(request.prompt)} do not fit: "
                f"{limit} in pages of {self._pool.page_size}",
            )

    def admit(self, request: LiveRequest) -> bool:
        """Gives the request its path and starts its first sample; False when there is no room."""
        if self.num_running >= self._max_running:
            return False
        namespace, prompt = request.request.namespace, request.request.prompt
        matched = self._tree.match(namespace, prompt)
        self._tree.pin(matched)
        missing = prompt[matched.end_position :]
        num_pages = self._pool.pages_for(len(missing)) + self._tail_pages(request.request)
        if num_pages > self.num_room_pages:
            self._tree.unpin(matched)
            return False
        num_computed = self._tree.count_computed(namespace, prompt)
        request.num_known_tokens = min(request.num_known_tokens, num_computed)
        leaf = self._append(matched, missing) if len(missing) else matched
        request.path = Path(leaf)
        self.prompt_ends[leaf] = self.prompt_ends.get(leaf, 0) + 1
        self._start_sample(request)
        return True

    def start_samples(self, request: LiveRequest) -> bool:
        """Starts as many further samples as there is room for; whether that was all of them."""
        num_pages = self._tail_pages(request.request)
        while request.unstarted:
            if self.num_running >= self._max_running or num_pages > self.num_room_pages:
                return False
            self._start_sample(request)
        return True

    def grow(self, tail: Tail) -> None:
        """One more page, out of the tail's reservation."""
        pages = self._tree.allocate(1)
        assert pages is not None, "a reserved page is not there"
        tail.grow(pages, self._pool)
        self.num_reserved_pages -= 1

    def end_sample(self, sample: LiveSample) -> None:
        """The sample leaves; what it computed stays cached until it is evicted."""
        tail = sample.tail
        if tail.num_computed > 0:
            leaf = sample.request.live_path.leaf
            self._tree.extend(leaf, tail.computed_tokens(), tail.computed_slots(), tail.pages)
        self.drop_sample(sample)

    def drop_sample(self, sample: LiveSample) -> None:
        """The sample leaves, and nothing of it stays."""
        self._pool.release(sample.tail.pages)
        self.num_reserved_pages -= sample.tail.num_reserved_pages
        self.num_running -= 1
        del sample.request.running[sample.index]

    def end_request(self, request: LiveRequest) -> None:
        """Unpins the path of a request whose samples have all left."""
        leaf = request.live_path.leaf
        self.prompt_ends[leaf] -= 1
        if self.prompt_ends[leaf] == 0:
            del self.prompt_ends[leaf]
        self._tree.unpin(leaf)

    def check(self, admitted: Sequence[LiveRequest], num_reserved_pages: int) -> None:
        """Raises AssertionError unless promises and pins are those of the admitted requests."""
        assert num_reserved_pages == self.num_reserved_pages, "reserved pages are miscounted"
        assert self.num_room_pages >= 0, "more pages are promised than there are"
        assert sum(len(r.running) for r in admitted) == self.num_running <= self._max_running
        ends = Counter(request.live_path.leaf for request in admitted)
        assert ends == self.prompt_ends, "prompt ends are miscounted"
        pins: Counter[Segment] = Counter()
        for request in admitted:
            request.live_path.check()
            assert request.live_path.num_tokens == request.prompt_length, "a path lost its prompt"
            pins.update(request.live_path.segments())
        assert {s: s.pins for s in self._tree.segments() if s.pins} == pins, "a pin is lost"

    def _append(self, matched: Segment, missing: Int32Array) -> Segment:
        leaf = self._tree.insert_pending(matched, missing)
        assert leaf is not None, "room that was counted is not there"
        self._tree.pin(leaf)
        self._tree.unpin(matched)
        return leaf

    def _start_sample(self, request: LiveRequest) -> None:
        tail = Tail(request.prompt_length, self._tail_pages(request.request))
        index = request.unstarted.pop()
        request.running[index] = LiveSample(request, index, tail)
        self.num_running += 1
        self.num_reserved_pages += tail.max_pages

    def _tail_pages(self, request: ScheduledRequest) -> int:
        """The last drawn token is never computed and needs no slot."""
        return self._pool.pages_for(request.max_tokens - 1)
