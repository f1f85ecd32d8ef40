"""How long the host takes for a step under a balanced load, Python's garbage collector running."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from treeserve.simulation.balanced_load import BalancedLoad, LoadShape


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Percentiles over the steps, in milliseconds."""

    mode: str
    """ "decode": nobody ends; "churn": in every step some end and others come."""
    running: int
    depth: int
    cached_tokens: int
    steps: int
    ending_per_step: int
    plan_ms_p50: float
    plan_ms_p99: float
    host_ms_p50: float
    """schedule() and complete(), the plan among them."""
    host_ms_p99: float
    add_ms_p50: float
    """add() of the step's new requests, all together."""
    gc_collections: int
    gc_ms_longest: float
    evicted_tokens: int


def measure_steps(shape: LoadShape, num_steps: int, churn: float | None = None) -> StepTimes:
    """Runs the load for so many steps.

    Args:
        shape: Of the load.
        num_steps: That are measured.
        churn: Share of the running requests that end in every step, one at least, and are replaced
            by new ones. None: nobody ends.
    """
    num_ending = 0 if churn is None else max(1, round(churn * shape.running))
    num_first = 0 if churn is None else round(shape.running / num_ending)
    load = BalancedLoad(shape, num_first + num_steps)
    for _ in range(num_first):
        # Until every request that started together with all others has been replaced.
        load.step(num_ending)
    before = load.scheduler.counts().num_evicted_tokens
    steps = []
    with _watched_collections() as pauses:
        for _ in range(num_steps):
            steps.append(load.step(num_ending))
    plan, host = [s.plan for s in steps], [s.host for s in steps]
    return StepTimes(
        mode="decode" if churn is None else "churn",
        running=shape.running,
        depth=shape.depth,
        cached_tokens=shape.cached_tokens,
        steps=num_steps,
        ending_per_step=num_ending,
        plan_ms_p50=milliseconds(plan, 50),
        plan_ms_p99=milliseconds(plan, 99),
        host_ms_p50=milliseconds(host, 50),
        host_ms_p99=milliseconds(host, 99),
        add_ms_p50=milliseconds([s.add for s in steps], 50),
        gc_collections=len(pauses),
        gc_ms_longest=milliseconds(pauses or [0.0], 100),
        evicted_tokens=load.scheduler.counts().num_evicted_tokens - before,
    )


def milliseconds(seconds: Sequence[float], percentile: float) -> float:
    return float(np.percentile(seconds, percentile)) * 1e3


@contextmanager
def _watched_collections() -> Iterator[list[float]]:
    """Seconds of each garbage collection meanwhile."""
    pauses: list[float] = []
    started = 0.0

    def see(phase: str, _: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = perf_counter()
        else:
            pauses.append(perf_counter() - started)

    gc.callbacks.append(see)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(see)
