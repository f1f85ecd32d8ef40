"""The ledger of a simulation: what every sample draws, and when everything happened."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from treeserve.config import SchedulerConfig
from treeserve.scheduler.counts import SchedulerCounts
from treeserve.scheduler.request import PromptUsage
from treeserve.scheduler.step import Int32Array, SampleKey, Step
from treeserve.simulation.result import Distribution, HostTime, Result, TenantResult
from treeserve.simulation.trace import FIRST_DRAWN_TOKEN, TraceRequest

STOP_TOKEN = (1 << 31) - 1


class Ledger:
    """Sample k of the trace draws token `FIRST_DRAWN_TOKEN + k` over and over.

    So samples differ from their first token on, whatever the order in which they run, and a sample
    that asked for more than it draws ends with STOP_TOKEN. Times are virtual seconds.
    """

    def __init__(self, trace: Sequence[TraceRequest], asked_tokens: Mapping[str, int]) -> None:
        self._trace = {request.request_id: request for request in trace}
        keys = [(r.request_id, index) for r in trace for index in range(r.num_samples)]
        self._sample_numbers = {key: number for number, key in enumerate(keys)}
        self._lengths = np.array([n for r in trace for n in r.output_lengths], dtype=np.int64)
        asked = np.array([asked_tokens[request_id] for request_id, _ in keys], dtype=np.int64)
        self._stops = self._lengths < asked
        self._num_drawn = np.zeros(len(keys), dtype=np.int64)
        self._first_at = np.full(len(keys), np.inf)
        self._last_at = np.full(len(keys), np.inf)
        self._num_open = {r.request_id: r.num_samples for r in trace}
        self._arrived_at: dict[str, float] = {}
        self._admitted_at: dict[str, float] = {}
        self._expired: set[str] = set()
        self._usages: dict[str, PromptUsage] = {}
        self._steps = _Steps()
        self.stop_token_ids = frozenset([STOP_TOKEN])

    def arrived(self, request_id: str, now: float) -> None:
        self._arrived_at[request_id] = now

    def admitted(self, request_id: str, now: float) -> None:
        self._admitted_at[request_id] = now

    def ran(self, step: Step, seconds: float, counts: SchedulerCounts) -> None:
        self._steps.add(step, seconds, counts)

    def host(self, seconds: float, plan_seconds: float) -> None:
        """Real seconds of the last step."""
        self._steps.host_seconds.append(seconds)
        self._steps.plan_seconds += plan_seconds

    def draw(self, samples: Sequence[SampleKey], now: float) -> Int32Array:
        """One token for each of the samples, none of which occurs twice."""
        numbers = np.array([self._sample_numbers[key] for key in samples], dtype=np.int64)
        self._first_at[numbers] = np.minimum(self._first_at[numbers], now)
        self._last_at[numbers] = now
        self._num_drawn[numbers] += 1
        is_last = self._num_drawn[numbers] == self._lengths[numbers]
        tokens = np.where(is_last & self._stops[numbers], STOP_TOKEN, FIRST_DRAWN_TOKEN + numbers)
        return tokens.astype(np.int32)

    def drew_all(self, request_id: str, sample_index: int, first_at: float, last_at: float) -> None:
        """A sample that has drawn all it will, and when it drew its first and its last token."""
        number = self._sample_numbers[request_id, sample_index]
        self._num_drawn[number] = self._lengths[number]
        self._first_at[number], self._last_at[number] = first_at, last_at

    def drawn_tokens(self, request_id: str, sample_index: int) -> Int32Array:
        """All that the sample drew, once it has ended."""
        number = self._sample_numbers[request_id, sample_index]
        tokens = np.full(self._num_drawn[number], FIRST_DRAWN_TOKEN + number, dtype=np.int32)
        if self._stops[number]:
            tokens[-1] = STOP_TOKEN
        return tokens

    def finished(self, request_id: str, sample_index: int) -> bool:
        """A sample ended; whether it was the request's last."""
        number = self._sample_numbers[request_id, sample_index]
        assert self._num_drawn[number] == self._lengths[number], "a sample ended at another length"
        self._num_open[request_id] -= 1
        return self._num_open[request_id] == 0

    def ended(self, request_id: str, usage: PromptUsage) -> None:
        self._usages[request_id] = usage

    def expired(self, request_id: str) -> None:
        self._expired.add(request_id)

    def result(self, config: SchedulerConfig) -> Result:
        """Everything so far."""
        steps = self._steps
        finished = list(self._usages)
        usages = self._usages.values()
        num_tokens = int(self._num_drawn.sum())
        makespan = float(self._last_at[np.isfinite(self._last_at)].max(initial=0.0))
        return Result(
            policy=config.policy,
            num_requests=len(self._trace),
            num_finished=len(finished),
            num_expired=len(self._expired),
            num_unsent=len(self._trace) - len(self._arrived_at),
            makespan_seconds=makespan,
            num_steps=len(steps.host_seconds),
            time_to_first_token=self._times_to_first_token(finished),
            time_per_output_token=self._times_per_output_token(finished),
            end_to_end=self._ends(finished),
            queue_wait=self._waits(finished),
            output_tokens=num_tokens,
            output_tokens_per_second=num_tokens / makespan if makespan else 0.0,
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            computed_tokens=sum(usage.computed_tokens for usage in usages),
            cached_tokens=sum(usage.cached_tokens for usage in usages),
            shared_tokens=sum(usage.shared_tokens for usage in usages),
            recomputed_tokens=steps.recomputed_tokens,
            computed_rows=steps.num_rows,
            kv_tokens_read=steps.kv_tokens_read,
            kv_tokens_read_flat=steps.kv_tokens_read_flat,
            mean_running_samples=steps.running_seconds / makespan if makespan else 0.0,
            peak_live_pages=steps.peak_live_pages,
            evicted_tokens=steps.evicted_tokens,
            preemptions=steps.preemptions,
            tenants=self._tenants(finished),
            host=steps.host_time(),
        )

    def _tenants(self, finished: Sequence[str]) -> dict[str, TenantResult]:
        ids: dict[str, list[str]] = defaultdict(list)
        for request_id in finished:
            ids[self._trace[request_id].tenant].append(request_id)
        sent = [request.tenant for request in self._trace.values()]
        return {
            tenant: TenantResult(
                num_requests=sent.count(tenant),
                num_finished=len(ids[tenant]),
                output_tokens=sum(sum(self._trace[i].output_lengths) for i in ids[tenant]),
                time_to_first_token=self._times_to_first_token(ids[tenant]),
                queue_wait=self._waits(ids[tenant]),
                end_to_end=self._ends(ids[tenant]),
            )
            for tenant in sorted(set(sent))
        }

    def _times_to_first_token(self, request_ids: Sequence[str]) -> Distribution:
        firsts = [float(self._first_at[self._numbers(i)].min()) for i in request_ids]
        return self._since_arrival(request_ids, firsts)

    def _ends(self, request_ids: Sequence[str]) -> Distribution:
        lasts = [float(self._last_at[self._numbers(i)].max()) for i in request_ids]
        return self._since_arrival(request_ids, lasts)

    def _waits(self, request_ids: Sequence[str]) -> Distribution:
        return self._since_arrival(request_ids, [self._admitted_at[i] for i in request_ids])

    def _times_per_output_token(self, request_ids: Sequence[str]) -> Distribution:
        numbers = [n for i in request_ids for n in self._numbers(i)]
        numbers = [n for n in numbers if self._num_drawn[n] > 1]
        seconds = self._last_at[numbers] - self._first_at[numbers]
        return Distribution.of((seconds / (self._num_drawn[numbers] - 1)).tolist())

    def _since_arrival(self, request_ids: Sequence[str], times: Sequence[float]) -> Distribution:
        arrivals = [self._arrived_at[i] for i in request_ids]
        return Distribution.of([t - a for t, a in zip(times, arrivals, strict=True)])

    def _numbers(self, request_id: str) -> list[int]:
        first = self._sample_numbers[request_id, 0]
        return list(range(first, first + self._trace[request_id].num_samples))


class _Steps:
    """Sums over the steps."""

    def __init__(self) -> None:
        self.host_seconds: list[float] = []
        self.plan_seconds = 0.0
        self.num_rows = 0
        self.kv_tokens_read = 0
        self.kv_tokens_read_flat = 0
        self.running_seconds = 0.0
        self.peak_live_pages = 0
        self.evicted_tokens = 0
        self.preemptions = 0
        self.recomputed_tokens = 0

    def add(self, step: Step, seconds: float, counts: SchedulerCounts) -> None:
        self.num_rows += step.num_rows
        self.kv_tokens_read += step.plan.counts.tokens_read
        self.kv_tokens_read_flat += step.plan.counts.tokens_read_flat
        self.running_seconds += counts.running_samples * seconds
        self.peak_live_pages = max(self.peak_live_pages, counts.used_pages - counts.cached_pages)
        self.evicted_tokens = counts.num_evicted_tokens
        self.preemptions = counts.preempted_samples
        self.recomputed_tokens = counts.tally.recomputed_tokens

    def host_time(self) -> HostTime:
        milliseconds = np.array(self.host_seconds or [0.0]) * 1e3
        return HostTime(
            total_seconds=float(sum(self.host_seconds)),
            plan_seconds=self.plan_seconds,
            step_ms_p50=float(np.percentile(milliseconds, 50)),
            step_ms_p99=float(np.percentile(milliseconds, 99)),
        )
