"""Every Prometheus metric that treeserve exports, in a registry of its own per server."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from treeserve.types import FinishReason, StepNumbers, Usage

_STEP_BUCKETS = (
    0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REQUEST_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PromptTimings:
    """When things happened to one prompt, in seconds since its call came."""

    first_token_seconds: float
    end_seconds: float


class Metrics:
    """Owns a registry and all metrics in it; every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._info = Info("treeserve", "What is being served.", registry=self.registry)
        self._steps = _StepMetrics(self.registry)
        self._prompts = _PromptMetrics(self.registry)

    def set_info(self, **labels: str) -> None:
        """Show version, model and the like as labels of `treeserve_info`."""
        self._info.info(labels)

    def observe_step(self, numbers: StepNumbers) -> None:
        """Count one step of the engine; one without rows and draws only sets the gauges."""
        self._steps.observe(numbers)

    def observe_finished(self, usage: Usage, timings: PromptTimings) -> None:
        """Count one prompt whose samples have all ended."""
        self._prompts.observe_finished(usage, timings)

    def observe_sample(self, reason: FinishReason) -> None:
        """Count one sample that has ended."""
        self._prompts.samples.labels(reason.value).inc()

    def observe_token_seconds(self, seconds: float) -> None:
        """Count one ended sample by its mean time between tokens."""
        self._prompts.token_seconds.observe(seconds)

    def observe_call(self, method: str, code: str) -> None:
        """Count one call by its gRPC method and the name of the status it ended with."""
        self._prompts.calls.labels(method, code).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _StepMetrics:
    """What the engine reports after each step."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._declare_counters(registry)
        self._declare_gauges(registry)
        self._declare_seconds(registry)

    def _declare_counters(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"treeserve_{name}", text, labels, registry=registry)

        self._rows = counter("step_rows", "Tokens that went through the model, by kind.", "kind")
        self._completion_tokens = counter(
            "completion_tokens", "Tokens drawn, those of aborted samples too."
        )
        self._kv_read = counter("kv_tokens_read", "KV tokens that attention read in each layer.")
        self._kv_flat = counter(
            "kv_tokens_read_flat",
            "KV tokens that ordinary attention, every sample alone, would have read.",
        )
        self._items = counter("work_items", "Work items of all plans.")
        self._shared_items = counter("shared_items", "Work items that served more than one sample.")
        self._folded = counter(
            "folded_segments",
            "Shared segments read once for each sharer, since sharing them would not have paid.",
        )
        self._evicted = counter("evicted_tokens", "Cached tokens given up for room.")

    def _declare_gauges(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"treeserve_{name}", text, registry=registry)

        self._running = gauge("running_samples", "Samples that are decoding.")
        self._waiting = gauge("waiting_requests", "Prompts that wait for room.")
        self._pages_used = gauge("pages_used", "Pages held by anything, the cache among it.")
        self._pages_cached = gauge("pages_cached", "Pages that only the cache holds: evictable.")
        self._pages_capacity = gauge("pages_capacity", "Pages in the pool.")

    def _declare_seconds(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, text: str) -> Histogram:
            return Histogram(
                f"treeserve_{name}_seconds", text, registry=registry, buckets=_STEP_BUCKETS
            )

        self._step_seconds = seconds("step", "One step: scheduling and the model.")
        self._plan_seconds = seconds("plan", "Planning the attention of one step.")
        self._schedule_seconds = seconds("schedule", "Scheduling one step, its plan included.")
        self._model_seconds = seconds("model", "The model and the sampler in one step.")

    def observe(self, numbers: StepNumbers) -> None:
        self._count(numbers)
        self._running.set(numbers.running_samples)
        self._waiting.set(numbers.waiting_requests)
        self._pages_used.set(numbers.used_pages)
        self._pages_cached.set(numbers.cached_pages)
        self._pages_capacity.set(numbers.total_pages)
        if numbers.num_rows or numbers.num_drawn:
            self._time(numbers)

    def _time(self, numbers: StepNumbers) -> None:
        self._step_seconds.observe(
            numbers.schedule_seconds - numbers.hidden_seconds + numbers.model_seconds
        )
        self._plan_seconds.observe(numbers.plan_seconds)
        self._schedule_seconds.observe(numbers.schedule_seconds)
        self._model_seconds.observe(numbers.model_seconds)

    def _count(self, numbers: StepNumbers) -> None:
        self._rows.labels("prompt").inc(numbers.num_prompt_rows)
        self._rows.labels("decode").inc(numbers.num_rows - numbers.num_prompt_rows)
        self._completion_tokens.inc(numbers.num_drawn)
        self._kv_read.inc(numbers.kv_tokens_read)
        self._kv_flat.inc(numbers.kv_tokens_read_flat)
        self._items.inc(numbers.work_items)
        self._shared_items.inc(numbers.shared_items)
        self._folded.inc(numbers.folded_segments)
        self._evicted.inc(numbers.evicted_tokens)


class _PromptMetrics:
    """What the service reports of each prompt, sample and call."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"treeserve_{name}_seconds", text, registry=registry, buckets=buckets)

        self._prompt_tokens = Counter(
            "treeserve_prompt_tokens",
            "Tokens of the prompts that ended: cached before they came, shared with a prompt in "
            "flight, or computed for them.",
            ["source"],
            registry=registry,
        )
        self.samples = Counter(
            "treeserve_samples_finished",
            "Samples that ended, by reason.",
            ["reason"],
            registry=registry,
        )
        self.calls = Counter(
            "treeserve_calls", "Calls, by method and status.", ["method", "code"], registry=registry
        )
        self._first_token_seconds = seconds(
            "time_to_first_token", "From the call to a prompt's first token.", _REQUEST_BUCKETS
        )
        self.token_seconds = seconds(
            "time_per_output_token", "A sample's mean time between tokens.", _TOKEN_BUCKETS
        )
        self._end_seconds = seconds(
            "request_duration", "From the call to the end of a prompt's samples.", _REQUEST_BUCKETS
        )

    def observe_finished(self, usage: Usage, timings: PromptTimings) -> None:
        self._prompt_tokens.labels("cached").inc(usage.cached_tokens)
        self._prompt_tokens.labels("shared").inc(usage.shared_tokens)
        self._prompt_tokens.labels("computed").inc(usage.computed_tokens)
        self._first_token_seconds.observe(timings.first_token_seconds)
        self._end_seconds.observe(timings.end_seconds)
