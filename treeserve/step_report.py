"""Puts the scheduler's counts and a step into the plain numbers that are told after it."""

from typing import Any

from treeserve.scheduler.counts import SchedulerCounts, Tally
from treeserve.scheduler.step import Step
from treeserve.step_numbers import StepNumbers


class StepReport:
    """Remembers what has been told, so that every event is told once."""

    def __init__(self) -> None:
        self.num_failed_steps = 0
        """Since the last report."""
        self._told: SchedulerCounts | None = None

    def between_steps(self, counts: SchedulerCounts) -> StepNumbers:
        """The engine as it is, and what happened since the last report."""
        return StepNumbers(**self._between_steps(counts))

    def after(
        self, step: Step, counts: SchedulerCounts, num_drawn: int, model_seconds: float
    ) -> StepNumbers:
        """As between_steps(), with the step that has been folded back."""
        plan, tally = step.plan.counts, counts.tally
        return StepNumbers(
            **self._between_steps(counts),
            num_rows=step.num_rows,
            num_prompt_rows=step.num_prompt_rows,
            num_drawn=num_drawn,
            work_items=step.plan.num_items,
            shared_items=plan.num_shared_items,
            cut_pieces=plan.num_cut_pieces,
            folded_segments=plan.num_folded_segments,
            outweighed_segments=plan.num_outweighed_segments,
            plain_rows=plan.num_plain_rows,
            node_rows=plan.num_node_rows,
            node_rows_log2=plan.node_rows_log2,
            max_row_states=plan.max_row_states,
            max_branches=plan.max_branches,
            plan_is_reused=plan.origin == "reused",
            kv_tokens_read=plan.tokens_read,
            kv_tokens_read_flat=plan.tokens_read_flat,
            plan_seconds=tally.plan_seconds,
            schedule_seconds=tally.schedule_seconds + tally.complete_seconds,
            hidden_seconds=tally.hidden_seconds,
            model_seconds=model_seconds,
            predicted_seconds=tally.predicted_seconds,
            actual_seconds=tally.step_seconds,
        )

    def _between_steps(self, counts: SchedulerCounts) -> dict[str, Any]:
        told, self._told = self._told, counts
        num_failed, self.num_failed_steps = self.num_failed_steps, 0
        evicted, tally = counts.evicted_tokens, counts.tally
        old_evicted = told.evicted_tokens if told else {"room": 0, "clear": 0}
        old_tally = told.tally if told else Tally()
        cleared = evicted["clear"] - old_evicted["clear"]
        return dict(
            running_samples=counts.running_samples,
            waiting_requests=counts.waiting_requests,
            used_pages=counts.used_pages,
            cached_pages=counts.cached_pages,
            total_pages=counts.total_pages,
            evicted_tokens=evicted["room"] - old_evicted["room"] + cleared,
            cleared_tokens=cleared,
            awaiting_samples=counts.awaiting_samples,
            startable_requests=counts.startable_requests,
            reserved_pages=counts.reserved_pages,
            retained_tokens=counts.retained_tokens,
            preempted_samples=counts.preempted_samples - (told.preempted_samples if told else 0),
            forked_requests=tally.num_forked - old_tally.num_forked,
            expired_requests=tally.num_expired - old_tally.num_expired,
            recomputed_tokens=tally.recomputed_tokens - old_tally.recomputed_tokens,
            failed_steps=num_failed,
        )
