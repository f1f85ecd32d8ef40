"""The synchronous core: requests in, one step at a time, tokens out. One thread, no text."""

import logging
import time
from dataclasses import dataclass, replace

import numpy as np

from treeserve.errors import InvalidRequest
from treeserve.runner import Runner
from treeserve.sampler import DrawnToken, DrawParams
from treeserve.scheduler.counts import SchedulerCounts
from treeserve.scheduler.request import PromptUsage, ScheduledFork, ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import SampleKey, Step
from treeserve.types import (
    FinishReason,
    SamplingParams,
    Sharing,
    StepNumbers,
    TokenLogprob,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class EngineRequest:
    """One prompt in token ids. `params.seed` is set; stop strings are not the engine's business."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    end_token_ids: frozenset[int] = frozenset()
    """The model's own end-of-text tokens and the caller's stop token ids."""
    namespace: str = ""
    num_public_tokens: int = 0
    """The prompt's first tokens that every namespace may share."""
    tenant: str = ""
    """Whom the work is charged to."""
    priority: int = 0
    """Higher goes sooner."""
    deadline: float | None = None
    """On the monotonic clock, in seconds; what is not finished by then is ended."""


@dataclass(frozen=True, slots=True, eq=False)
class EngineFork:
    """Samples that go on from a token of another sample. `params.seed` is set."""

    request_id: str
    parent_request_id: str
    parent_sample_index: int
    num_tokens: int
    """Tokens that the parent drew before the branch."""
    params: SamplingParams
    end_token_ids: frozenset[int] = frozenset()
    priority: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sample drew one token."""

    request_id: str
    sample_index: int
    token_id: int
    logprob: TokenLogprob | None
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The last event of a request, after all its samples ended."""

    request_id: str
    usage: PromptUsage
    reason: FinishReason = FinishReason.ABORT
    """Why samples that had not finished were ended."""
    error: str | None = None
    """What went wrong, if something did."""


EngineEvent = TokenEvent | RequestEnded


@dataclass(slots=True)
class _LiveRequest:
    params: SamplingParams
    open_samples: set[int]


class Engine:
    """Every method is called from one thread.

    Args:
        scheduler: Decides what each step computes.
        runner: Computes it.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._live: dict[str, _LiveRequest] = {}
        self._ended: list[EngineEvent] = []
        self._sharing = Sharing()
        self._evicted_tokens = 0
        self._drawing: tuple[SampleKey, ...] = ()
        self._draw_params: list[DrawParams] = []

    @property
    def scheduler(self) -> Scheduler:
        """For introspection: counts and check()."""
        return self._scheduler

    @property
    def sharing(self) -> Sharing:
        """What sharing saved since the engine started, over requests that ended."""
        return self._sharing

    def add(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: It can never fit in the pool.
        """
        params = request.params
        self._scheduler.add(
            ScheduledRequest(
                request_id=request.request_id,
                prompt=np.array(request.prompt_token_ids, dtype=np.int32),
                num_samples=params.n,
                max_tokens=params.max_tokens,
                stop_token_ids=request.end_token_ids,
                namespace=request.namespace,
                num_public_tokens=request.num_public_tokens,
                tenant=request.tenant,
                priority=request.priority,
                deadline=request.deadline,
            )
        )
        self._live[request.request_id] = _LiveRequest(params, set(range(params.n)))

    def fork(self, fork: EngineFork) -> None:
        """Queue samples that go on from a token of another one, alive or ended not long ago.

        Raises:
            InvalidRequest: No such parent, it drew fewer tokens, or the branch can never fit.
        """
        params = fork.params
        self._scheduler.fork(
            ScheduledFork(
                request_id=fork.request_id,
                parent_request_id=fork.parent_request_id,
                parent_sample_index=fork.parent_sample_index,
                num_tokens=fork.num_tokens,
                num_samples=params.n,
                max_tokens=params.max_tokens,
                stop_token_ids=fork.end_token_ids,
                priority=fork.priority,
                deadline=fork.deadline,
            )
        )
        self._live[fork.request_id] = _LiveRequest(params, set(range(params.n)))

    def abort(self, request_id: str, sample_index: int | None = None) -> None:
        """End a request, or one of its samples, at once. What has ended or never was is ignored."""
        live = self._live.get(request_id)
        if live is None or (sample_index is not None and sample_index not in live.open_samples):
            return
        live.open_samples -= live.open_samples if sample_index is None else {sample_index}
        if live.open_samples:
            self._scheduler.abort(request_id, sample_index)
            return
        usage = self._scheduler.usage(request_id)
        self._scheduler.abort(request_id)
        self._end(request_id, usage)

    def has_work(self) -> bool:
        """Whether step() has anything to do or to tell."""
        return bool(self._ended) or self._scheduler.has_work()

    def step(self) -> tuple[list[EngineEvent], StepNumbers | None]:
        """Run one step.

        Returns:
            What happened since the last step and in this one, and this one's numbers: with no rows
            and no draws where it failed or was not needed, None where nothing happened at all.
        """
        step = self._scheduler.schedule()
        for request_id in self._scheduler.take_expired():
            usage = self._scheduler.usage(request_id)
            self._end(request_id, usage, reason=FinishReason.DEADLINE)
        events = self.take_ended()
        if step is None:
            return events, self._numbers(self._scheduler.counts()) if events else None
        started = time.perf_counter()
        try:
            drawn = self._runner.run(step, self._params_of(step.draws.samples))
        except BaseException as error:
            self._fail(step, f"{type(error).__name__}: {error}")
            if not isinstance(error, Exception):
                raise
            logger.exception("step %d failed", step.number)
            return events + self.take_ended(), self._numbers(self._scheduler.counts())
        model_seconds = time.perf_counter() - started
        tokens = self._fold_back(step, drawn)
        numbers = self._step_numbers(step, model_seconds)
        return [*events, *tokens, *self.take_ended()], numbers

    def abort_all(self) -> None:
        """End every request."""
        for request_id in list(self._live):
            self.abort(request_id)

    def take_ended(self) -> list[EngineEvent]:
        """Last events of requests that ended outside a step, once."""
        ended, self._ended = self._ended, []
        return ended

    def _params_of(self, drawing: tuple[SampleKey, ...]) -> list[DrawParams]:
        """The same list as long as the same samples draw."""
        if drawing is not self._drawing:
            self._draw_params = [
                DrawParams(self._live[key.request_id].params, key.sample_index) for key in drawing
            ]
            self._drawing = drawing
        return self._draw_params

    def _fold_back(self, step: Step, drawn: list[DrawnToken]) -> list[TokenEvent]:
        finished = self._scheduler.complete(step, [token.token_id for token in drawn])
        reasons = {end.draw_index: FinishReason(end.reason) for end in finished}
        events = [
            TokenEvent(*key, token.token_id, token.logprob, reasons.get(index))
            for index, (key, token) in enumerate(zip(step.draws.samples, drawn, strict=True))
        ]
        for end in finished:
            live = self._live[end.request_id]
            live.open_samples.discard(end.sample_index)
            if not live.open_samples:
                self._end(end.request_id, self._scheduler.usage(end.request_id))
        return events

    def _fail(self, step: Step, error: str) -> None:
        usages = {request_id: self._scheduler.usage(request_id) for request_id in self._live}
        for request_id in self._scheduler.fail(step):
            self._end(request_id, usages[request_id], FinishReason.ERROR, error)

    def _end(
        self,
        request_id: str,
        usage: PromptUsage,
        reason: FinishReason = FinishReason.ABORT,
        error: str | None = None,
    ) -> None:
        del self._live[request_id]
        self._ended.append(RequestEnded(request_id, usage, reason, error))
        self._sharing = _add_sharing(
            self._sharing,
            Sharing(
                prompt_tokens=usage.prompt_tokens, computed_prompt_tokens=usage.computed_tokens
            ),
        )

    def _numbers(self, counts: SchedulerCounts) -> StepNumbers:
        """The engine between two steps."""
        evicted = counts.num_evicted_tokens - self._evicted_tokens
        self._evicted_tokens = counts.num_evicted_tokens
        return StepNumbers(
            running_samples=counts.running_samples,
            waiting_requests=counts.waiting_requests,
            used_pages=counts.used_pages,
            cached_pages=counts.cached_pages,
            total_pages=counts.total_pages,
            evicted_tokens=evicted,
        )

    def _step_numbers(self, step: Step, model_seconds: float) -> StepNumbers:
        counts = self._scheduler.counts()
        plan = step.plan.counts
        self._sharing = _add_sharing(
            self._sharing,
            Sharing(kv_tokens_read=plan.tokens_read, kv_tokens_read_flat=plan.tokens_read_flat),
        )
        return replace(
            self._numbers(counts),
            num_rows=step.num_rows,
            num_prompt_rows=step.num_prompt_rows,
            num_drawn=len(step.draws),
            work_items=step.plan.num_items,
            shared_items=plan.num_shared_items,
            folded_segments=plan.num_folded_segments,
            kv_tokens_read=plan.tokens_read,
            kv_tokens_read_flat=plan.tokens_read_flat,
            plan_seconds=counts.tally.plan_seconds,
            schedule_seconds=counts.tally.schedule_seconds + counts.tally.complete_seconds,
            model_seconds=model_seconds,
        )


def check_request(request: EngineRequest, vocabulary_size: int, max_positions: int) -> None:
    """Raise InvalidRequest if the model can never serve the request."""
    prompt = request.prompt_token_ids
    if not prompt:
        raise InvalidRequest("prompt", "must not be empty")
    for index, token_id in enumerate(prompt):
        if not 0 <= token_id < vocabulary_size:
            raise InvalidRequest(
                f"prompt[{index}]",
                f"token id {token_id} is outside the vocabulary of {vocabulary_size}",
            )
    if len(prompt) >= max_positions:
        raise InvalidRequest(
            "prompt",
            f"has {len(prompt)} tokens; the model takes at most {max_positions - 1} and one more",
        )


def _add_sharing(left: Sharing, right: Sharing) -> Sharing:
    return Sharing(
        prompt_tokens=left.prompt_tokens + right.prompt_tokens,
        computed_prompt_tokens=left.computed_prompt_tokens + right.computed_prompt_tokens,
        kv_tokens_read=left.kv_tokens_read + right.kv_tokens_read,
        kv_tokens_read_flat=left.kv_tokens_read_flat + right.kv_tokens_read_flat,
    )
