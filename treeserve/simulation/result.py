"""What a simulation found: times of virtual requests, and what the scheduler saved."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of some seconds; zeros where there are none."""

    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> "Distribution":
        if not values:
            return cls()
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        return cls(float(np.mean(values)), float(p50), float(p90), float(p99))


@dataclass(frozen=True, slots=True)
class TenantResult:
    """What one tenant got; times are seconds of virtual time."""

    num_requests: int
    num_finished: int
    output_tokens: int
    time_to_first_token: Distribution
    queue_wait: Distribution
    end_to_end: Distribution


@dataclass(frozen=True, slots=True)
class HostTime:
    """Real seconds that the scheduler itself took on this machine."""

    total_seconds: float
    plan_seconds: float
    """Of the total."""
    step_ms_p50: float
    step_ms_p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One trace under one policy. Equal traces give equal results, but for `host`.

    Times are seconds of virtual time, of requests that finished: a request's first token is that of
    its first sample, its end that of its last one. Time per output token is of samples.
    """

    policy: str
    num_requests: int
    num_finished: int
    num_expired: int
    num_unsent: int
    """Whose parent expired."""
    makespan_seconds: float
    """From the trace's start to the last token."""
    num_steps: int
    time_to_first_token: Distribution
    time_per_output_token: Distribution
    end_to_end: Distribution
    queue_wait: Distribution
    """From the arrival to the admission."""
    output_tokens: int
    output_tokens_per_second: float
    prompt_tokens: int
    """Sent."""
    computed_tokens: int
    """Of the prompts."""
    cached_tokens: int
    shared_tokens: int
    """Computed by another request in flight."""
    recomputed_tokens: int
    """Of prompts and of what was drawn, since samples had to give up their memory."""
    computed_rows: int
    """Rows of all steps: prompts, decoding, and what was computed again."""
    kv_tokens_read: int
    kv_tokens_read_flat: int
    mean_running_samples: float
    """Over the makespan."""
    peak_live_pages: int
    """Held by running requests."""
    evicted_tokens: int
    preemptions: int
    tenants: dict[str, TenantResult]
    host: HostTime = field(compare=False)
