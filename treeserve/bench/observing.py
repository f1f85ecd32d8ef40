"""Times what observing the engine costs, beside the same steps unobserved."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

import numpy as np

from treeserve.engine import Engine
from treeserve.llm import LLM
from treeserve.metrics import Metrics
from treeserve.metrics.steps import MOST_PENDING
from treeserve.scheduler.step import Draws, Plan, PlanCounts, Step
from treeserve.step_report import StepReport
from treeserve.types import SamplingParams

Clock: TypeAlias = Callable[[], float]

SCRAPE_INTERVAL_SECONDS = 5.0
"""As in deploy/prometheus.yml."""

_NOTHING = np.zeros(0, dtype=np.int32)
_STARTS = np.zeros(1, dtype=np.int32)
_EMPTY_STEP = Step(
    number=0,
    token_ids=_NOTHING,
    positions=_NOTHING,
    write_slots=_NOTHING,
    logits_rows=_NOTHING,
    keeps=(),
    draws=Draws((), _NOTHING, _NOTHING),
    plan=Plan(
        item_rows=_NOTHING,
        item_row_starts=_STARTS,
        item_slots=_NOTHING,
        item_slot_starts=_NOTHING,
        item_slot_ends=_NOTHING,
        item_start_positions=_NOTHING,
        row_states=_NOTHING,
        row_state_starts=_STARTS,
        counts=PlanCounts(),
    ),
    num_prompt_rows=0,
)


@dataclass(frozen=True, slots=True)
class ObservingCost:
    """Medians, in seconds."""

    batch: int
    num_steps: int
    """Of each side."""
    observed_step_seconds: float
    """A step and telling the metrics of it."""
    unobserved_step_seconds: float
    """A step of which nobody is told; they take turns."""
    report_seconds: float
    """Putting the scheduler's counts into plain numbers, which happens in either."""
    observe_seconds: float
    """Telling the metrics, timed by itself; of means over the steps that they add up together."""
    scrape_seconds: float
    """One page of metrics."""

    @property
    def observing_share(self) -> float:
        """Of a step: making the numbers and telling them."""
        return (self.report_seconds + self.observe_seconds) / self.unobserved_step_seconds

    @property
    def difference_share(self) -> float:
        """Of a step: how much longer observed ones took by the clock."""
        return self.observed_step_seconds / self.unobserved_step_seconds - 1

    @property
    def scraping_share(self) -> float:
        """Of all time, at the usual interval, had the engine to wait for every scrape."""
        return self.scrape_seconds / SCRAPE_INTERVAL_SECONDS


def measure_observing(
    llm: LLM, prefix: Sequence[int], batch: int, num_steps: int, clock: Clock = perf_counter
) -> ObservingCost:
    """Decode a batch, and observe every other step.

    Args:
        llm: Used by nobody else meanwhile.
        prefix: Token ids that all samples share.
        batch: Samples.
        num_steps: Measured, of each side.
        clock: In seconds; of the process's own CPU time where others use the machine too.
    """
    params = SamplingParams(n=batch, max_tokens=2 * num_steps + 8, seed=1, ignore_eos=True)
    encoded = llm.prompter.encode(tuple(prefix), params)
    engine, metrics, report = llm.engine, Metrics(), StepReport()
    metrics.set_sizes(page_tokens=16, kv_token_bytes=1 << 12)
    engine.add(encoded.request)
    while engine.scheduler.counts().running_samples < batch:
        engine.step()
    times = _Times([], [], [], [])
    for number in range(num_steps):
        for is_observed in (number % 2 == 0, number % 2 == 1):
            _measure_step(engine, metrics if is_observed else None, times, clock)
        times.report.append(_time_report(engine, report, _EMPTY_STEP, clock))
    scrapes = [_time_scrape(metrics, clock) for _ in range(10)]
    engine.abort_all()
    engine.take_ended()
    median = statistics.median
    return ObservingCost(
        batch=batch,
        num_steps=num_steps,
        observed_step_seconds=median(times.observed),
        unobserved_step_seconds=median(times.unobserved),
        report_seconds=median(times.report),
        observe_seconds=median(_block_means(times.observe)),
        scrape_seconds=median(scrapes),
    )


@dataclass(slots=True)
class _Times:
    observed: list[float]
    unobserved: list[float]
    report: list[float]
    observe: list[float]


def _measure_step(engine: Engine, metrics: Metrics | None, times: _Times, clock: Clock) -> None:
    started = clock()
    _, numbers = engine.step()
    stepped = clock()
    assert numbers is not None, "samples that decode draw in every step"
    if metrics is None:
        times.unobserved.append(stepped - started)
        return
    metrics.observe_step(numbers)
    ended = clock()
    times.observed.append(ended - started)
    times.observe.append(ended - stepped)


def _block_means(seconds: list[float]) -> list[float]:
    starts = range(0, max(1, len(seconds) - MOST_PENDING + 1), MOST_PENDING)
    return [statistics.fmean(seconds[start : start + MOST_PENDING]) for start in starts]


def _time_scrape(metrics: Metrics, clock: Clock) -> float:
    started = clock()
    metrics.render()
    return clock() - started


def _time_report(engine: Engine, report: StepReport, step: Step, clock: Clock) -> float:
    """What the engine does for the numbers of a step."""
    started = clock()
    report.after(step, engine.scheduler.counts(), len(step.draws), 0.0)
    return clock() - started
