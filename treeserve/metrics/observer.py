"""The one observer: told what happens, it shows every metric in a registry of its own."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from treeserve.metrics import declarations as declared
from treeserve.metrics.cells import Asked, Labels, Number
from treeserve.metrics.requests import RequestMetrics, RequestTimings
from treeserve.metrics.steps import StepMetrics
from treeserve.step_numbers import StepNumbers
from treeserve.types import FinishReason, SampleTimings, Usage


class Metrics(Collector):
    """All metrics of one server; every method may be called from any thread."""

    def __init__(self) -> None:
        self._info = Labels(declared.INFO)
        self._ready = Asked(declared.READY)
        self._stalled = Asked(declared.STALLED_SECONDS)
        self._calls_running = Asked(declared.CALLS_RUNNING)
        self._kv_token_bytes = Number(declared.KV_TOKEN_BYTES)
        self._page_tokens = Number(declared.PAGE_TOKENS)
        self._steps = StepMetrics()
        self._requests = RequestMetrics()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def set_info(self, labels: Mapping[str, str]) -> None:
        """Show what is served as the labels of `treeserve_info`: those that are declared."""
        self._info.set(labels)
        self._steps.sharing_is_off = labels["sharing"] == "off"

    def set_sizes(self, *, page_tokens: int, kv_token_bytes: int) -> None:
        """Say what a page and a token are: slots, and bytes over all layers."""
        self._page_tokens.set(page_tokens)
        self._kv_token_bytes.set(kv_token_bytes)
        self._steps.kv_token_bytes = kv_token_bytes

    def ask_server(
        self,
        *,
        is_ready: Callable[[], bool],
        stalled_seconds: Callable[[], float],
        num_calls: Callable[[], int],
    ) -> None:
        """Whom to ask, at every scrape, what does not come from the engine: it may be stuck."""
        self._ready.ask = is_ready
        self._stalled.ask = stalled_seconds
        self._calls_running.ask = num_calls

    def observe_step(self, numbers: StepNumbers) -> None:
        """Count one step of the engine; one without rows and draws only sets the gauges."""
        self._steps.observe(numbers)

    def observe_finished(
        self, usage: Usage, timings: RequestTimings, num_samples: int = 1, tenant: str = ""
    ) -> None:
        """Count one request whose samples have all ended."""
        self._requests.observe_finished(usage, timings, num_samples, tenant)

    def observe_sample(
        self,
        reason: FinishReason,
        num_tokens: int = 0,
        timings: SampleTimings | None = None,
        tenant: str = "",
    ) -> None:
        """Count one sample that has ended."""
        self._requests.observe_sample(reason, num_tokens, timings, tenant)

    def observe_token_seconds(self, seconds: float) -> None:
        """Count one ended sample by its mean time between tokens."""
        self._requests.observe_token_seconds(seconds)

    def observe_call(self, method: str, code: str, tenant: str = "") -> None:
        """Count one call by its gRPC method, the name of the status it ended with, and caller."""
        self._requests.observe_call(method, code, tenant)

    def collect(self) -> Iterator[Metric]:
        """Every family, as it is now; waits for no step."""
        cells = (
            self._info,
            self._ready,
            self._stalled,
            self._calls_running,
            self._page_tokens,
            self._kv_token_bytes,
        )
        yield from (cell.family() for cell in cells)
        yield from self._requests.families()
        yield from self._steps.families()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
