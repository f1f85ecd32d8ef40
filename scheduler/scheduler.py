"""The scheduler: requests in, steps out, drawn tokens folded back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from treeserve.config import SchedulerConfig
from treeserve.scheduler.admission import Admission
from treeserve.scheduler.assembly import Assembly, InFlight, Planner
from treeserve.scheduler.cost import CostModel
from treeserve.scheduler.kept import KeptLogits
from treeserve.scheduler.live import LiveRequest
from treeserve.scheduler.plan import check_plan, plan_flat, plan_shared
from treeserve.scheduler.policy import Policy, WaitingQueue, first_come
from treeserve.scheduler.pool import PagePool
from treeserve.scheduler.request import PromptUsage, SampleUpdate, ScheduledRequest
from treeserve.scheduler.step import Step
from treeserve.scheduler.tree import RadixTree


@dataclass(frozen=True, slots=True)
class SchedulerCounts:
    """The scheduler in numbers, between two steps."""

    running_samples: int
    waiting_requests: int
    used_pages: int
    """Held by anything, the cache among it."""
    cached_pages: int
    """Of those, the ones that only the tree holds and that can be evicted."""
    total_pages: int
    evicted_tokens: int
    """Since the start."""
    plan_seconds: float
    """Of the last step."""
    schedule_seconds: float
    """Of the last step, the plan among it."""


class Scheduler:
    """Turns requests into steps, one at a time: `schedule`, run it, then `complete` or `fail`.

    A request may be added at any time; everything else happens between two steps.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        cost_model: CostModel | None = None,
        policy: Policy = first_come,
    ) -> None:
        self._config = config
        self._pool = PagePool(config.num_pages, config.page_size)
        self._kept = KeptLogits(config.kept_logits)
        self._tree = RadixTree(self._pool, self._kept)
        max_running = min(config.max_running, config.token_budget)
        self._admission = Admission(self._pool, self._tree, max_running)
        self._queue = WaitingQueue(policy)
        self._planner = _choose_planner(config, cost_model or CostModel())
        self._live: dict[str, LiveRequest] = {}
        self._admitted: dict[str, LiveRequest] = {}
        self._finished_usage: dict[str, PromptUsage] = {}
        self._in_flight: InFlight | None = None
        self._num_steps = 0
        self._plan_seconds = 0.0
        self._schedule_seconds = 0.0

    def add(self, request: ScheduledRequest) -> None:
        """Queues a request.

        Raises:
            InvalidRequest: It could not be served even by an empty pool.
            ValueError: A request with this id is alive.
        """
        if request.request_id in self._live:
            raise ValueError(f"request id {request.request_id!r} is in use")
        self._admission.require_possible(request)
        num_known = self._tree.count_computed(request.namespace, request.prompt)
        live = LiveRequest(request, num_known)
        self._live[request.request_id] = live
        self._queue.push(live)

    def abort(self, request_id: str, sample_index: int | None = None) -> None:
        """Ends a request, or one of its samples, at once; unknown ids are ignored.

        Its pages are given back. What it had computed stays cached until it is evicted.
        """
        self._require_between_steps()
        request = self._live.get(request_id)
        if request is None:
            return
        indices = range(request.request.num_samples) if sample_index is None else [sample_index]
        for index in indices:
            if index in request.running:
                self._admission.end_sample(request.running[index])
            elif index in request.unstarted:
                request.unstarted.remove(index)
        self._end_if_done(request)

    def schedule(self) -> Step | None:
        """Decides the next step; None when there is nothing to do."""
        self._require_between_steps()
        started = perf_counter()
        self._finished_usage.clear()
        self._admit()
        requests = list(self._admitted.values())
        assembly = Assembly(self._config.token_budget, self._admission.prompt_ends)
        decoding = [s for r in requests for s in r.running.values() if s.has_drawn]
        for sample in decoding:
            if sample.tail.needs_page:
                self._admission.grow(sample.tail)
        assembly.add_decode_rows(decoding)
        for request in requests:
            assembly.add_prompt_rows(request)
        self._in_flight = assembly.build(self._num_steps, requests, self._kept, self._planner)
        if self._in_flight is None:
            return None
        self._num_steps += 1
        self._plan_seconds = self._in_flight.plan_seconds
        self._schedule_seconds = perf_counter() - started
        return self._in_flight.step

    def complete(self, step: Step, token_ids: Sequence[int]) -> list[SampleUpdate]:
        """Folds the drawn tokens back, one for each of `step.draws`, in their order.

        Samples that end leave at once, and with its last sample a request: its `usage` can still be
        asked until the next call of `schedule`.
        """
        in_flight = self._take_in_flight(step)
        if len(token_ids) != len(step.draws):
            raise ValueError(f"{len(step.draws)} draws, and {len(token_ids)} tokens for them")
        self._mark_computed(in_flight)
        updates = []
        for sample, token_id in zip(in_flight.drawing, token_ids, strict=True):
            sample.tail.tokens.append(int(token_id))
            reason = sample.finish_reason()
            request = sample.request
            updates.append(SampleUpdate(request.request_id, sample.index, int(token_id), reason))
            if reason is not None:
                self._admission.end_sample(sample)
                self._end_if_done(request)
        return updates

    def fail(self, step: Step) -> list[str]:
        """Ends the requests with rows or draws in a step that was not computed; returns their ids.

        Nothing that they drew is cached. Other requests go on.
        """
        in_flight = self._take_in_flight(step)
        for segment in in_flight.kept:
            self._kept.forget(segment)
        request_ids = in_flight.request_ids()
        for request_id in request_ids:
            request = self._live[request_id]
            request.unstarted.clear()
            for sample in list(request.running.values()):
                self._admission.drop_sample(sample)
            self._end_if_done(request)
        return request_ids

    def usage(self, request_id: str) -> PromptUsage:
        """Where the prompt's tokens came from: final from the first draw on.

        Of live requests, and of those that ended since the last call of `schedule`.

        Raises:
            KeyError: Of any other.
        """
        request = self._live.get(request_id)
        return self._finished_usage[request_id] if request is None else request.usage()

    def clear_cache(self) -> int:
        """Evicts everything that no live request needs; returns the number of tokens."""
        self._require_between_steps()
        return self._tree.clear()

    def has_work(self) -> bool:
        return bool(self._live)

    def counts(self) -> SchedulerCounts:
        return SchedulerCounts(
            running_samples=self._admission.num_running,
            waiting_requests=len(self._queue),
            used_pages=self._pool.num_pages - self._pool.num_free,
            cached_pages=self._tree.num_evictable_pages,
            total_pages=self._pool.num_pages,
            evicted_tokens=self._tree.num_evicted_tokens,
            plan_seconds=self._plan_seconds,
            schedule_seconds=self._schedule_seconds,
        )

    def check(self) -> None:
        """Raises AssertionError on any imbalance. Slow: in proportion to all that is cached."""
        samples = [s for r in self._admitted.values() for s in r.running.values()]
        held = self._tree.held_counts()
        for sample in samples:
            held[sample.tail.pages] += 1
        self._pool.check(held)
        self._tree.check()
        self._queue.check()
        reserved = sum(sample.tail.num_reserved_pages for sample in samples)
        self._admission.check(list(self._admitted.values()), reserved)
        assert len(self._live) == len(self._admitted) + len(self._queue), "a request is lost"
        assert not any(request.is_done for request in self._live.values()), "a request outlived"
        if self._in_flight is not None:
            flight = self._in_flight
            check_plan(flight.step.plan, flight.chunks, flight.step.positions)
            return
        for sample in samples:
            sample.tail.check(self._config.page_size)
        kept = [s for s in self._tree.segments() if s.kept_index is not None]
        assert not any(s.is_pending for s in kept), "kept logits of tokens that are not computed"

    def _admit(self) -> None:
        for request in self._admitted.values():
            if not self._admission.start_samples(request):
                return
        while (first := self._queue.first()) is not None:
            if not self._admission.admit(first) and not self._admit_into_empty_pool(first):
                return
            self._queue.remove(first.request_id)
            self._admitted[first.request_id] = first
            if not self._admission.start_samples(first):
                return

    def _admit_into_empty_pool(self, request: LiveRequest) -> bool:
        # A cached prefix in many pieces can pin more pages than the prompt alone would take.
        if self._admitted:
            return False
        self._tree.clear()
        admitted = self._admission.admit(request)
        assert admitted, f"{request.request_id} does not fit into an empty pool"
        return True

    def _mark_computed(self, in_flight: InFlight) -> None:
        for claim in in_flight.claims:
            claim.segment.num_computed = claim.end
            end_position = claim.segment.start_position + claim.end
            claim.request.count_computed(claim.end - claim.start, end_position)
        for request in in_flight.recomputed:
            request.count_recomputed()
        for sample in in_flight.decoded:
            sample.tail.num_computed = len(sample.tail.tokens)

    def _end_if_done(self, request: LiveRequest) -> None:
        if not request.is_done:
            return
        self._finished_usage[request.request_id] = request.usage()
        del self._live[request.request_id]
        if request.path is None:
            self._queue.remove(request.request_id)
            return
        del self._admitted[request.request_id]
        self._admission.end_request(request)

    def _take_in_flight(self, step: Step) -> InFlight:
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is None or in_flight.step is not step:
            raise ValueError(f"step {step.number} is not in flight")
        return in_flight

    def _require_between_steps(self) -> None:
        if self._in_flight is not None:
            raise RuntimeError(f"step {self._in_flight.step.number} is in flight")


def _choose_planner(config: SchedulerConfig, cost_model: CostModel) -> Planner:
    if config.sharing == "off":
        return partial(plan_flat, cost_model=cost_model)
    if config.sharing == "always":
        cost_model = replace(cost_model, state_cost=0.0, item_cost=0.0)
    return partial(plan_shared, cost_model=cost_model)
