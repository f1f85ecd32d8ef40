"""The synchronous core: requests in, one step at a time, tokens out. One thread, no text."""

import logging
import time
from dataclasses import dataclass

from treeserve.engine_messages import (
    Branch,
    EngineEvent,
    EngineFork,
    EngineRequest,
    PromptProgress,
    PromptScored,
    RequestEnded,
    TokenEvent,
    as_fork,
    as_scheduled,
    as_scheduled_fork,
)
from treeserve.errors import RankLost
from treeserve.live_request import LiveRequest
from treeserve.prompt_scores import PromptScores
from treeserve.runner import Launched, Runner
from treeserve.sampler import DrawnToken, DrawParams
from treeserve.scheduler.request import PromptUsage
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import SampleKey, Step
from treeserve.step_numbers import StepNumbers
from treeserve.step_report import StepReport
from treeserve.types import FinishReason, Sharing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Flying:
    """A step that the device works on, and whose tokens nobody has read."""

    step: Step
    draws: list[DrawParams]
    launched: Launched
    launched_at: float
    scores: list[PromptScores | None]
    """Where each of the step's scored parts goes."""


class Engine:
    """Every method is called from one thread.

    Args:
        scheduler: Decides what each step computes.
        runner: Computes it.
        overlap: Decide and launch each step while the device works on the one before, whose tokens
            are read and told after that. For a device that carries out steps in order, and not
            while the host waits for it.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, *, overlap: bool = False) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._overlap = overlap
        self._flying: _Flying | None = None
        self._read_at = 0.0
        self._live: dict[str, LiveRequest] = {}
        self._events: list[EngineEvent] = []
        self._sharing = Sharing()
        self._report = StepReport()
        self._drawing: tuple[SampleKey, ...] = ()
        self._draw_params: list[DrawParams] = []
        self._progress: dict[str, int] = {}
        """Computed tokens of the prompts whose progress is told, until their first draw."""

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
        if request.branch is not None and self._is_open(request.branch):
            self.fork(as_fork(request, request.branch))
            return
        self._scheduler.add(as_scheduled(request))
        self._open(request)

    def fork(self, fork: EngineFork) -> None:
        """Queue samples that go on from a token of another one, alive or ended not long ago.

        Raises:
            InvalidRequest: No such parent, it drew fewer tokens, or the branch can never fit.
        """
        self._scheduler.fork(as_scheduled_fork(fork))
        self._open(fork)

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
        """Whether step() has anything to do, to read or to tell."""
        return bool(self._events) or self._flying is not None or self._scheduler.has_work()

    def step(self) -> tuple[list[EngineEvent], StepNumbers | None]:
        """Run one step; with overlap, start one and tell of the one before.

        Returns:
            What happened since the last step and in this one, and this one's numbers: with no rows
            and no draws where it failed or was not needed, None where nothing happened at all.
        """
        numbers = self._read_flying_sync() if self._must_read_first() else None
        step = self._scheduler.schedule()
        for request_id in self._scheduler.take_expired():
            usage = self._scheduler.usage(request_id)
            self._end(request_id, usage, reason=FinishReason.DEADLINE)
        self._note_admitted()
        if step is None:
            numbers = self._read_flying_sync() or numbers
        elif self._overlap:
            numbers = self._launch_ahead(step) or numbers
        else:
            numbers = self._run(step)
        return self._told(numbers)

    def settle(self) -> tuple[list[EngineEvent], StepNumbers | None]:
        """Read the step that is on its way, if there is one: nothing is left on the device.

        Returns:
            As step(), of the step that was read.
        """
        return self._told(self._read_flying_sync())

    def abort_all(self) -> None:
        """End every request, and leave no step unread."""
        for request_id in list(self._live):
            self.abort(request_id)
        self._read_flying_sync()

    def take_ended(self) -> list[EngineEvent]:
        """What happened outside a step, once: last events of requests that ended."""
        ended, self._events = self._events, []
        return ended

    def _told(self, numbers: StepNumbers | None) -> tuple[list[EngineEvent], StepNumbers | None]:
        events = self.take_ended()
        if events and numbers is None:
            numbers = self._report.between_steps(self._scheduler.counts())
        return events, numbers

    def _run(self, step: Step) -> StepNumbers | None:
        """One step from its launch to its tokens; None if it failed."""
        started = time.perf_counter()
        try:
            draws = self._params_of(step.draws.samples)
            scores = self._scores_of(step)
            launched = self._runner.launch(step, draws)
            drawn = launched.read_sync()
            self._note_scores(step, scores, launched)
        except BaseException as error:
            self._fail(step, error)
            return None
        model_seconds = time.perf_counter() - started
        return self._fold_back(step, draws, drawn, model_seconds)

    def _launch_ahead(self, step: Step) -> StepNumbers | None:
        """Starts a step, and only then waits for the one before, whose numbers it returns."""
        started = time.perf_counter()
        try:
            draws = self._params_of(step.draws.samples)
            scores = self._scores_of(step)
            launched = self._runner.launch(step, draws)
        except BaseException as error:
            numbers = self._read_flying_sync()
            if self._scheduler.is_in_flight(step):
                self._fail(step, error)
            return numbers
        numbers = self._read_flying_sync()
        # If the step before has failed, this one counts for nothing: nobody reads it.
        if self._scheduler.is_in_flight(step):
            self._scheduler.assume(step)
            self._flying = _Flying(step, draws, launched, started, scores)
        return numbers

    def _read_flying_sync(self) -> StepNumbers | None:
        """Waits for the step on its way and folds it back; None if it failed or there is none."""
        flying, self._flying = self._flying, None
        if flying is None:
            return None
        try:
            drawn = flying.launched.read_sync()
            self._note_scores(flying.step, flying.scores, flying.launched)
        except BaseException as error:
            self._fail(flying.step, error)
            return None
        now = time.perf_counter()
        # The device starts on a step when it is through with the one before.
        model_seconds = now - max(flying.launched_at, self._read_at)
        self._read_at = now
        return self._fold_back(flying.step, flying.draws, drawn, model_seconds)

    def _must_read_first(self) -> bool:
        """Whether the next step depends on what the one on its way has drawn."""
        flying = self._flying
        if flying is not None and any(draw.needs_history for draw in flying.draws):
            return True
        return self._scheduler.must_read_first()

    def _params_of(self, drawing: tuple[SampleKey, ...]) -> list[DrawParams]:
        """The same list as long as the same samples draw."""
        if drawing is not self._drawing:
            self._draw_params = [
                DrawParams(live.params, key.sample_index, live.rules(key.sample_index))
                for key, live in ((key, self._live[key.request_id]) for key in drawing)
            ]
            self._drawing = drawing
        return self._draw_params

    def _scores_of(self, step: Step) -> list[PromptScores | None]:
        """Where each scored part of a step goes; an id may name another request later on."""
        parts = () if step.scores is None else step.scores.parts
        return [self._live[part.request_id].scores for part in parts]

    def _note_scores(
        self, step: Step, prompts: list[PromptScores | None], launched: Launched
    ) -> None:
        """Tells how likely prompt tokens are, of requests that still run."""
        if step.scores is None:
            return
        scored = launched.read_scores_sync()
        for part, prompt in zip(step.scores.parts, prompts, strict=True):
            live = self._live.get(part.request_id)
            if prompt is not None and live is not None and live.scores is prompt:
                ids = part.scores.tolist()
                told = prompt.add(part.positions.tolist(), [scored[index] for index in ids])
                self._events += [PromptScored(part.request_id, each) for each in told]

    def _open(self, request: EngineRequest | EngineFork) -> None:
        self._live[request.request_id] = LiveRequest(request)
        if request.reports_progress:
            self._progress[request.request_id] = 0

    def _is_open(self, branch: Branch) -> bool:
        live = self._live.get(branch.request_id)
        return live is not None and branch.sample_index in live.open_samples

    def _note_admitted(self) -> None:
        now = time.monotonic()
        for request_id in self._scheduler.take_admitted():
            if request_id in self._live:
                self._live[request_id].admitted_at = now

    def _progresses(self, step: Step) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        for request_id, told in self._progress.items():
            num_computed = self._scheduler.num_computed(request_id)
            if num_computed > told:
                self._progress[request_id] = num_computed
                events.append(PromptProgress(request_id, num_computed))
        for key in step.draws.samples:
            self._progress.pop(key.request_id, None)
        return events

    def _observe(
        self, step: Step, draws: list[DrawParams], drawn: list[DrawnToken]
    ) -> dict[int, SampleKey]:
        """Tell rules what was drawn; by draw, samples that their rules cannot go on with."""
        broken = {}
        lost = self._scheduler.lost_draws
        for index, (draw, token) in enumerate(zip(draws, drawn, strict=True)):
            if draw.rules is None or index in lost:
                continue
            draw.rules.observe(token.token_id)
            if draw.rules.error:
                logger.warning("a guided sample cannot go on: %s", draw.rules.error)
                broken[index] = step.draws.samples[index]
        return broken

    def _fold_back(
        self,
        step: Step,
        draws: list[DrawParams],
        drawn: list[DrawnToken],
        model_seconds: float,
    ) -> StepNumbers:
        now = time.monotonic()
        finished = self._scheduler.complete(step, [token.token_id for token in drawn])
        lost = self._scheduler.lost_draws
        reasons = {end.draw_index: FinishReason(end.reason) for end in finished}
        broken = self._observe(step, draws, drawn)
        reasons = dict.fromkeys(broken, FinishReason.ERROR) | reasons
        self._events += self._progresses(step)
        self._events += [
            TokenEvent(
                *key,
                token.token_id,
                token.logprob,
                reasons.get(index),
                now,
                self._live[key.request_id].admitted_at,
            )
            for index, (key, token) in enumerate(zip(step.draws.samples, drawn, strict=True))
            if index not in lost
        ]
        for end in finished:
            live = self._live[end.request_id]
            live.open_samples.discard(end.sample_index)
            if not live.open_samples:
                self._end(end.request_id, self._scheduler.usage(end.request_id))
        for key in broken.values():
            self.abort(*key)
        return self._step_numbers(step, len(drawn) - len(lost), model_seconds)

    def _fail(self, step: Step, error: BaseException) -> None:
        """Ends the requests of a step that could not be computed; an interrupt goes on, and a lost
        rank: no later step could be computed.
        """
        self._report.num_failed_steps += 1
        usages = {request_id: self._scheduler.usage(request_id) for request_id in self._live}
        reason = f"{type(error).__name__}: {error}"
        for request_id in self._scheduler.fail(step):
            self._end(request_id, usages[request_id], FinishReason.ERROR, reason)
        if isinstance(error, RankLost) or not isinstance(error, Exception):
            raise error
        logger.error("step %d failed", step.number, exc_info=error)

    def _end(
        self,
        request_id: str,
        usage: PromptUsage,
        reason: FinishReason = FinishReason.ABORT,
        error: str | None = None,
    ) -> None:
        admitted_at = self._live.pop(request_id).admitted_at
        self._progress.pop(request_id, None)
        now = time.monotonic()
        self._events.append(RequestEnded(request_id, usage, reason, error, now, admitted_at))
        self._sharing = _add_sharing(
            self._sharing,
            Sharing(
                prompt_tokens=usage.prompt_tokens,
                computed_prompt_tokens=usage.computed_tokens + usage.encoded_tokens,
            ),
        )

    def _step_numbers(self, step: Step, num_drawn: int, model_seconds: float) -> StepNumbers:
        plan = step.plan.counts
        self._sharing = _add_sharing(
            self._sharing,
            Sharing(kv_tokens_read=plan.tokens_read, kv_tokens_read_flat=plan.tokens_read_flat),
        )
        return self._report.after(step, self._scheduler.counts(), num_drawn, model_seconds)


def _add_sharing(left: Sharing, right: Sharing) -> Sharing:
    return Sharing(
        prompt_tokens=left.prompt_tokens + right.prompt_tokens,
        computed_prompt_tokens=left.computed_prompt_tokens + right.computed_prompt_tokens,
        kv_tokens_read=left.kv_tokens_read + right.kv_tokens_read,
        kv_tokens_read_flat=left.kv_tokens_read_flat + right.kv_tokens_read_flat,
    )
