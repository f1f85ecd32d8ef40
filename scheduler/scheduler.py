"""The scheduler: requests in, steps out, drawn tokens folded back."""

import time
from collections.abc import Callable, Sequence
from itertools import chain
from time import perf_counter

import numpy as np

from treeserve.config import SchedulerConfig
from treeserve.scheduler.admission import Admission
from treeserve.scheduler.assembly import Assembly
from treeserve.scheduler.awaiting import Awaiting
from treeserve.scheduler.counts import SchedulerCounts, Tally
from treeserve.scheduler.deadlines import Deadlines
from treeserve.scheduler.encoding import Encoder
from treeserve.scheduler.finished import FinishedSample, FinishedSamples, fork_request
from treeserve.scheduler.flight import Flights, InFlight, Landing
from treeserve.scheduler.fold import Fold
from treeserve.scheduler.lineup import Lineup
from treeserve.scheduler.live import LiveRequest, find_parent
from treeserve.scheduler.pace import Pace
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.planner import Planner
from treeserve.scheduler.plan.snapshot import PlanSnapshot
from treeserve.scheduler.queue.waiting_queue import WaitingQueue
from treeserve.scheduler.request import Finished, PromptUsage, ScheduledFork, ScheduledRequest
from treeserve.scheduler.rows import DecodeRows
from treeserve.scheduler.step import Int32Array, SampleKey, Step
from treeserve.scheduler.tree.kept import KeptLogits
from treeserve.scheduler.tree.pool import PagePool
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.retention import RetainedPrefix
from treeserve.scheduler.tree.snapshot import TreeSnapshot
from treeserve.scheduler.tree.undo import uncompute


class Scheduler:
    """Turns requests into steps, one at a time: `schedule`, run it, then `complete` or `fail`.

    A request may be added at any time; everything else happens between two steps. A step counts as
    over for that once it is assumed, so that the next one can be decided while it runs: `schedule`,
    start it, `complete` the one before, `assume` it, `schedule` the next.

    Args:
        config: Pool, budgets and policy.
        cost_model: Decides where attention shares; None: safe defaults.
        clock: Seconds, for waits, deadlines and retention.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        cost_model: CostModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock = clock
        num_slots = config.num_pages * config.page_size
        self._pool = PagePool(config.num_pages, config.page_size)
        self._kept = KeptLogits(config.kept_logits)
        self._tree = RadixTree(
            self._pool,
            self._kept,
            clock=clock,
            retention_budget_tokens=int(config.retained_fraction * num_slots),
        )
        max_running = min(config.max_running, config.token_budget)
        self._rows = DecodeRows(max_running, config.page_size)
        self._awaiting = Awaiting()
        self._admission = Admission(
            self._pool,
            self._tree,
            self._rows,
            self._awaiting,
            max_running=max_running,
            reserve=config.reserve,
        )
        self._queue = WaitingQueue(config.policy, self._tree, config.tenant_weights)
        self._encoder = Encoder(self._tree, self._admission, config.token_budget)
        self._lineup = Lineup(self._tree, self._admission, self._queue, self._encoder)
        self._planner = Planner(cost_model or CostModel(), config.sharing)
        self._pace = Pace()
        self._live: dict[str, LiveRequest] = {}
        self._deadlines = Deadlines()
        self._expired: list[str] = []
        self._finished = FinishedSamples(num_slots)
        self._finished_usage: dict[str, PromptUsage] = {}
        self._flights = Flights()
        self._fold = Fold(self._tree, self._rows, self._awaiting, self._queue)
        self._lost_draws: frozenset[int] = frozenset()
        self._num_steps = 0
        self._tally = Tally()

    def add(self, request: ScheduledRequest) -> None:
        """Queues a request.

        Raises:
            InvalidRequest: It could not be served even by an empty pool.
            ValueError: A request with this id is alive.
        """
        if request.request_id in self._live:
            raise ValueError(f"request id {request.request_id!r} is in use")
        self._admission.require_possible(request)
        now = self._clock()
        live = LiveRequest(request, now, num_known_tokens=0)
        live.num_known_tokens = self._tree.locate(live.prefix).num_computed
        self._live[request.request_id] = live
        self._finished.forget(request.request_id)
        self._deadlines.add(request.request_id, request.deadline)
        self._lineup.push(live, now)

    def fork(self, fork: ScheduledFork) -> None:
        """Queues a request that goes on from one of another sample's tokens.

        What comes before the branch is shared where it lies: of a living parent (but see
        `Admission.branch`) only the last token's row is computed again, for its logits; of one that
        ended, what has been evicted. A token that was not read is none of its tokens yet.

        Raises:
            InvalidRequest: No such parent, it did not draw as many tokens, or as `add`.
            ValueError: A request with this id is alive.
        """
        self._flights.require_between_steps()
        key = SampleKey(fork.parent_request_id, fork.parent_sample_index)
        request = fork_request(fork, find_parent(self._live, self._finished, key))
        if request.request_id in self._live:
            raise ValueError(f"request id {request.request_id!r} is in use")
        self._admission.require_possible(request)
        parent = self._live.get(key.request_id)
        if parent is not None and key.sample_index in parent.running:
            self._admission.branch(parent.running[key.sample_index], fork.num_tokens)
        self.add(request)
        self._tally.num_forked += 1

    def abort(self, request_id: str, sample_index: int | None = None) -> None:
        """Ends a request, or one of its samples, at once; unknown ids are ignored.

        Its pages are given back. What it had computed stays cached until it is evicted.
        """
        self._flights.require_between_steps()
        request = self._live.get(request_id)
        if request is None:
            return
        if sample_index is None:
            request.forget_startable()
            for sample in list(request.running.values()):
                self._admission.end_sample(sample)
        elif sample_index in request.running:
            self._admission.end_sample(request.running[sample_index])
        else:
            request.forget_startable(sample_index)
        self._settle(request)

    def schedule(self) -> Step | None:
        """Decides the next step; None when there is nothing to do.

        Behind a step that is assumed, `Step.token_ids` names tokens that are still to be read.
        """
        self._flights.require_between_steps()
        started = perf_counter()
        now = self._clock()
        self._finished_usage.clear()
        self._tree.expire(now)
        self._expire(now)
        preempted = self._admission.grow()
        self._lineup.put_back(preempted)
        if not preempted or not self._admission.num_running:
            self._lineup.start(self._config.token_budget - len(self._rows), now)
        in_flight = self._encoder.interleave(self._num_steps, self._decide)
        if in_flight is None:
            return None
        self._num_steps += 1
        self._flights.depart(in_flight, self._clock(), perf_counter() - started)
        return in_flight.step

    def must_read_first(self) -> bool:
        """Whether the step on its way is to be completed before `schedule`.

        Memory has run out, and who gives way must know what he drew.
        """
        return self._flights.assumed is not None and self._admission.must_preempt()

    def assume(self, step: Step) -> None:
        """Folds back all of a step but the values of its tokens, which `complete` brings later.

        What it computes counts as computed, and who draws in it has one token more. That holds for
        a device that carries out steps in order: whoever gets pages of a sample that has ended gets
        them in a later step, so what a step on its way still reads or writes there does no harm.

        Raises:
            ValueError: The step is not in flight, is assumed already, or another one is.
        """
        self._fold.assume(self._flights.assume(step))

    def complete(self, step: Step, token_ids: Sequence[int] | Int32Array) -> list[Finished]:
        """Folds the drawn tokens back, one for each of `step.draws`, in their order.

        Samples that end leave at once, and with its last sample a request: its `usage` can still be
        asked until the next call of `schedule`. Of two steps in flight, the first one comes first.

        Returns:
            The samples that ended, in the order of their draws.

        Raises:
            ValueError: Another step is in flight, or there are more or fewer tokens than draws; the
                step that is in flight stays so.
        """
        started = perf_counter()
        tokens = np.asarray(token_ids, dtype=np.int32)
        if len(tokens) != len(step.draws):
            raise ValueError(f"{len(step.draws)} draws, and {len(tokens)} tokens for them")
        if self._flights.is_behind(step):
            self.assume(step)
        landing = self._flights.land(step, self._clock())
        self._encoder.land(landing.in_flight)
        self._observe_pace(landing)
        fold_back = self._fold.read if landing.was_assumed else self._fold.whole
        ended, self._lost_draws = fold_back(landing.in_flight, tokens)
        finished = []
        for draw_index, sample, reason in ended:
            request = sample.request
            finished.append(Finished(request.request_id, sample.index, draw_index, reason))
            self._finished.add(sample.key, FinishedSample(request.request, tuple(sample.drawn)))
            self._admission.end_sample(sample)
            self._settle(request)
        self._tally.complete_seconds = complete_seconds = perf_counter() - started
        self._tally.hidden_seconds = landing.schedule_seconds if landing.was_behind else 0.0
        self._tally.hidden_seconds += complete_seconds if self._flights.decided else 0.0
        return finished

    def fail(self, step: Step) -> list[str]:
        """Ends the requests with rows or draws in a step that was not computed; returns their ids.

        Nothing that they drew in it is cached. Other requests go on. A step that was decided behind
        one that was assumed and fails is forgotten: who is left computes it again.
        """
        was_assumed = self._flights.is_assumed(step)
        flight, *behind = self._flights.give_up(step)
        for segment in chain(flight.kept, *(each.kept for each in behind)):
            self._kept.forget(segment)
        # An id may name another request by now.
        failed = [r for r in flight.requests() if self._live.get(r.request_id) is r]
        for request in failed:
            request.forget_startable()
            for sample in list(request.running.values()):
                self._admission.drop_sample(sample)
            self._settle(request)
        for each in (flight, *behind):
            self._encoder.land(each)
        if was_assumed:
            uncompute(self._tree, flight.step.write_slots)
        return [request.request_id for request in failed]

    def is_in_flight(self, step: Step) -> bool:
        """Whether it was neither completed nor failed, nor forgotten with one that failed."""
        return self._flights.holds(step)

    @property
    def lost_draws(self) -> frozenset[int]:
        """Draws of the step completed last whose samples had ended before: nobody's tokens."""
        return self._lost_draws

    def take_expired(self) -> list[str]:
        """Requests that their deadlines ended since the last call."""
        expired, self._expired = self._expired, []
        return expired

    def retain(self, prefix: Prefix, weight: float, ttl_seconds: float) -> RetainedPrefix:
        """Favours a cached prefix over others of its kind when memory is needed: a bias, no lock.

        Raises:
            InvalidRequest: Over the retention budget.
        """
        self._flights.require_between_steps()
        return self._tree.retain(prefix, weight, ttl_seconds)

    def release_retained(self, retained_id: int) -> None:
        """Ends a retention before its time; unknown ids are ignored."""
        self._flights.require_between_steps()
        self._tree.release_retained(retained_id)

    def retained(self) -> tuple[RetainedPrefix, ...]:
        return self._tree.retained()

    def usage(self, request_id: str) -> PromptUsage:
        """Where the prompt's tokens came from: final from the first draw on.

        Of live requests, and of those that ended since the last call of `schedule`.

        Raises:
            KeyError: Of any other.
        """
        request = self._live.get(request_id)
        return self._finished_usage[request_id] if request is None else request.usage()

    def clear_cache(self) -> int:
        """Evicts everything that no running sample needs; returns the number of tokens."""
        self._flights.require_between_steps()
        return self._tree.clear()

    def is_waiting(self, request_id: str) -> bool:
        """Whether a request has not been admitted yet; False of unknown ones."""
        return self._lineup.is_waiting(request_id)

    def take_admitted(self) -> list[str]:
        return self._lineup.take_admitted()

    def num_computed(self, request_id: str) -> int:
        request = self._live.get(request_id)
        return 0 if request is None else self._tree.locate(request.prefix).num_computed

    def has_work(self) -> bool:
        return bool(self._live)

    def insides(self) -> tuple[RadixTree, Planner]:
        """What is saved from and restored to, and what takes new costs; no step is on its way."""
        self._flights.require_none()
        return self._tree, self._planner

    def tree_snapshot(self) -> TreeSnapshot:
        return self._tree.snapshot()

    def plan_snapshot(self) -> PlanSnapshot:
        """Of the last step."""
        return self._planner.snapshot()

    def counts(self) -> SchedulerCounts:
        return SchedulerCounts(
            running_samples=self._admission.num_running,
            awaiting_samples=len(self._awaiting),
            waiting_requests=self._lineup.num_waiting,
            startable_requests=self._lineup.num_startable,
            used_pages=self._pool.num_pages - self._pool.num_free,
            cached_pages=self._tree.num_evictable_pages,
            reserved_pages=self._admission.num_reserved_pages,
            total_pages=self._pool.num_pages,
            retained_tokens=self._tree.num_retained_tokens,
            evicted_tokens=dict(self._tree.evicted_tokens),
            preempted_samples=self._admission.num_preempted,
            tally=self._tally.copy(),
        )

    def check(self) -> None:
        """Raises AssertionError on any imbalance. Slow: in proportion to all that is cached."""
        requests = list(self._live.values())
        samples = [s for request in requests for s in request.running.values()]
        held = self._tree.held_counts()
        for sample in samples:
            held[sample.tail.pages] += 1
        self._pool.check(held)
        self._tree.check()
        self._lineup.check(requests)
        self._encoder.check()
        self._admission.check(requests)
        assert not any(request.is_done for request in requests), "it outlived its samples"
        self._rows.check()
        for sample in samples:
            sample.tail.check(self._config.page_size)
        self._flights.check(samples)
        if self._flights.decided is None:
            kept = [s for s in self._tree.segments() if s.kept_index is not None]
            assert not any(s.is_pending for s in kept), "kept logits of what is not computed"

    def _decide(self) -> InFlight | None:
        assembly = Assembly(self._config.token_budget, self._rows, self._awaiting)
        assembly.add_prompts()
        return assembly.build(self._num_steps, self._kept, self._planner.plan)

    def _expire(self, now: float) -> None:
        for request_id in self._deadlines.passed(now):
            self.abort(request_id)
            self._expired.append(request_id)
            self._tally.num_expired += 1

    def _observe_pace(self, landing: Landing) -> None:
        step, seconds = landing.in_flight.step, landing.seconds
        num_read = step.plan.counts.tokens_read
        self._tally.plan_seconds = landing.in_flight.plan_seconds
        self._tally.schedule_seconds = landing.schedule_seconds
        self._tally.predicted_seconds = self._pace.predict(step.num_rows, num_read)
        self._tally.step_seconds = seconds
        self._pace.observe(step.num_rows, num_read, seconds)
        self._queue.pace = self._pace.mean_seconds_per_token

    def _settle(self, request: LiveRequest) -> None:
        """Takes a request out of the line-up, or out of everything, once it has nothing left."""
        if not request.is_startable:
            self._lineup.discard(request)
        if not request.is_done:
            return
        usage = request.usage()
        self._finished_usage[request.request_id] = usage
        self._tally.add_usage(usage)
        self._deadlines.discard(request.request_id)
        del self._live[request.request_id]
