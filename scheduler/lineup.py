"""The line-up: which samples start next, those of admitted requests first, then those that wait."""

from collections.abc import Iterable
from operator import attrgetter

from treeserve.scheduler.admission import Admission
from treeserve.scheduler.assembly import half_of
from treeserve.scheduler.encoding import Encoder
from treeserve.scheduler.live import LiveRequest, LiveSample
from treeserve.scheduler.queue.waiting_queue import WaitingQueue
from treeserve.scheduler.sorted_items import SortedItems
from treeserve.scheduler.tree.radix_tree import RadixTree


class Lineup:
    """Admitted requests of which samples wait for memory, by turn, and the waiting queue.

    Nobody is admitted while an earlier request still waits for memory. While the tokens that are
    pending fill the step, only requests are that this very step can compute, in half of its rows:
    so short prompts do not wait for the end of long ones, and of the others, which wait in the
    queue, the order can still change.
    """

    def __init__(
        self, tree: RadixTree, admission: Admission, queue: WaitingQueue, encoder: Encoder
    ) -> None:
        self._tree = tree
        self._admission = admission
        self._queue = queue
        self._encoder = encoder
        self._num_turns = 0
        self._admitted: list[str] = []
        self._startable: SortedItems[LiveRequest] = SortedItems(key=attrgetter("turn"))

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_startable(self) -> int:
        return len(self._startable)

    def is_waiting(self, request_id: str) -> bool:
        return request_id in self._queue

    def take_admitted(self) -> list[str]:
        """Requests that the last start admitted, once."""
        admitted, self._admitted = self._admitted, []
        return admitted

    def push(self, request: LiveRequest, now: float) -> None:
        self._queue.push(request, now)

    def put_back(self, preempted: Iterable[LiveSample]) -> None:
        """They start again in their request's turn."""
        for sample in preempted:
            if sample.request not in self._startable:
                self._startable.add(sample.request)

    def discard(self, request: LiveRequest) -> None:
        """The request has no sample left to start."""
        self._encoder.forget(request)
        if request.turn is None:
            self._queue.remove(request.request_id)
        else:
            self._startable.discard(request)

    def start(self, num_prompt_rows: int, now: float) -> None:
        """Starts what there is memory for and what keeps so many rows of a step busy."""
        self._admitted = []
        if self._start_admitted():
            self._admit(num_prompt_rows, now)
        self._encoder.end_pass()
        is_idle = not self._admission.num_running and not self._encoder.is_at_work()
        if is_idle and (len(self._startable) or len(self._queue)):
            self._start_in_empty_pool(now)

    def check(self, live: Iterable[LiveRequest]) -> None:
        """Raises AssertionError unless every live request is where it belongs."""
        self._queue.check()
        num_queued = 0
        for request in live:
            waits = request.request_id in self._queue
            num_queued += waits
            assert waits == (request.turn is None), f"{request.request_id} lost its turn"
            listed = not waits and request in self._startable
            assert listed == (not waits and request.is_startable), "a sample is never started"
            assert not waits or not (request.running or request.preempted), "started, and waits"
        assert num_queued == len(self._queue), "the queue holds requests that are gone"
        self._startable.check()
        assert all(request.is_startable for request in self._startable)

    def _start_admitted(self) -> bool:
        while self._startable:
            if not self._start_samples(self._startable[0]):
                return False
            self._startable.pop(0)
        return True

    def _admit(self, num_prompt_rows: int, now: float) -> None:
        if not len(self._queue):
            return
        num_beside = half_of(num_prompt_rows)
        for request in self._queue.candidates(now):
            if self._admission.is_full or num_beside <= 0:
                return
            num_needed = self._num_needed_beside(request, num_prompt_rows)
            has_modules = self._encoder.offer(request)
            if num_needed > num_beside or not has_modules or not self._start(request):
                continue
            num_beside -= num_needed
            if not self._take_turn(request):
                return

    def _num_needed_beside(self, request: LiveRequest, num_prompt_rows: int) -> int:
        """Rows that the request takes from prompts which would fill the step without it."""
        num_pending = self._tree.num_pending_tokens - self._encoder.num_pending_tokens
        if num_pending < num_prompt_rows:
            return 0
        return max(1, self._queue.num_uncomputed(request.request_id))

    def _take_turn(self, request: LiveRequest) -> bool:
        """Its first sample has started; whether all others have."""
        self._queue.remove(request.request_id)
        request.turn = self._num_turns
        self._num_turns += 1
        self._admitted.append(request.request_id)
        if request.trunk is not None:
            self._tree.count_hit(request.trunk)
        num_computed = self._tree.locate(request.prefix).num_computed
        request.num_known_tokens = min(request.num_known_tokens, num_computed)
        if self._start_samples(request):
            return True
        self._startable.add(request)
        return False

    def _start_samples(self, request: LiveRequest) -> bool:
        if not self._encoder.offer(request):
            return False
        while request.is_startable:
            if not self._start(request):
                return False
        return True

    def _start(self, request: LiveRequest) -> bool:
        if self._admission.start(request) is None:
            return False
        self._encoder.forget(request)
        return True

    def _start_in_empty_pool(self, now: float) -> None:
        if self._startable:
            request = self._startable[0]
            if not self._start_alone(request):
                return
            if not request.is_startable:
                self._startable.pop(0)
        else:
            candidates = self._queue.candidates(now)
            request = next(candidates)
            if self._start_alone(request):
                self._take_turn(request)

    def _start_alone(self, request: LiveRequest) -> bool:
        """Whether its modules are there, all memory being its own."""
        self._encoder.focus(request)
        # A cached prefix in many pieces can pin more pages than its tokens alone would take.
        self._tree.clear()
        if not self._encoder.offer(request):
            return False
        is_started = self._start(request)
        assert is_started, f"{request.request_id} does not fit into an empty pool"
        return True
