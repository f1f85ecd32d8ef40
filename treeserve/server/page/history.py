"""What the charts show: a point a second, of the last five minutes."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from treeserve.server.activity import Activity
from treeserve.server.step_totals import StepTotals

MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class Point:
    """The time since the point before; what cannot be said is None."""

    at: float
    """Seconds since 1970-01-01 UTC."""
    seconds: float
    """Since the point before."""
    drawn_per_second: float
    prompt_rows_per_second: float
    steps_per_second: float
    step_seconds: float | None
    """Mean."""
    plan_seconds: float | None
    """Mean."""
    kv_saved: float | None
    """Of the KV tokens that ordinary attention would have read, the part that was not."""
    hit_rate: float | None
    """Of the tokens of prompts that ended, those that were not computed for them."""
    first_token_p50_seconds: float | None
    first_token_p95_seconds: float | None
    token_p50_seconds: float | None
    """Between two tokens of a sample."""
    token_p95_seconds: float | None
    running_samples: int
    waiting_requests: int
    used_pages: int
    """Held by anything, the cache among it."""
    cached_pages: int
    """Of those, the ones that only the cache holds."""
    total_pages: int


class History:
    """The last points; belongs to one event loop.

    Args:
        totals: Of the engine's steps.
        activity: Of the service.
        clock: Seconds since 1970-01-01 UTC.
    """

    def __init__(
        self, totals: StepTotals, activity: Activity, clock: Callable[[], float] = time.time
    ) -> None:
        self._totals = totals
        self._activity = activity
        self._clock = clock
        self._points: deque[Point] = deque(maxlen=MAX_POINTS)
        self._last = self._read()

    @property
    def points(self) -> list[Point]:
        """Oldest first."""
        return list(self._points)

    def take(self) -> Point:
        """A new point."""
        last, now = self._last, self._read()
        self._last = now
        point = self._point(*(after - before for before, after in zip(last, now, strict=True)))
        self._points.append(point)
        return point

    def _read(self) -> tuple[float, ...]:
        totals, activity = self._totals, self._activity
        return (
            self._clock(),
            totals.num_steps,
            totals.step_seconds,
            totals.plan_seconds,
            totals.drawn_tokens,
            totals.prompt_rows,
            totals.kv_tokens_read,
            totals.kv_tokens_read_flat,
            activity.cached_tokens + activity.shared_tokens,
            activity.computed_tokens,
        )

    def _point(
        self,
        seconds: float,
        steps: float,
        step_seconds: float,
        plan_seconds: float,
        drawn: float,
        prompt_rows: float,
        kv_read: float,
        kv_flat: float,
        found_tokens: float,
        computed_tokens: float,
    ) -> Point:
        timings, last = self._activity.take_timings(), self._totals.last
        first_tokens = sorted(t.first_token_seconds for t in timings)
        between_tokens = sorted(t.seconds_per_token for t in timings if t.seconds_per_token > 0)
        # The wall's clock may be set back.
        seconds = max(seconds, 1e-3)
        return Point(
            at=round(self._last[0], 3),
            seconds=round(seconds, 3),
            drawn_per_second=round(drawn / seconds, 2),
            prompt_rows_per_second=round(prompt_rows / seconds, 2),
            steps_per_second=round(steps / seconds, 2),
            step_seconds=_part(step_seconds, steps),
            plan_seconds=_part(plan_seconds, steps),
            kv_saved=_part(kv_flat - kv_read, kv_flat),
            hit_rate=_part(found_tokens, found_tokens + computed_tokens),
            first_token_p50_seconds=_quantile(first_tokens, 0.5),
            first_token_p95_seconds=_quantile(first_tokens, 0.95),
            token_p50_seconds=_quantile(between_tokens, 0.5),
            token_p95_seconds=_quantile(between_tokens, 0.95),
            running_samples=last.running_samples if last else 0,
            waiting_requests=last.waiting_requests if last else 0,
            used_pages=last.used_pages if last else 0,
            cached_pages=last.cached_pages if last else 0,
            total_pages=last.total_pages if last else 0,
        )


def columns_of(points: Sequence[Point]) -> dict[str, list[float | None]]:
    """The points field by field, as charts take them."""
    rows = [asdict(point) for point in points]
    return {name: [row[name] for row in rows] for name in Point.__slots__}


def _part(value: float, whole: float) -> float | None:
    return round(value / whole, 6) if whole > 0 else None


def _quantile(ordered: Sequence[float], part: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(part * len(ordered)) - 1)], 6)
