"""What the service reports of each call, request and sample, added up."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Metric

from treeserve.metrics import declarations as declared
from treeserve.metrics.cells import Distribution, Number
from treeserve.metrics.tenants import TenantLabels
from treeserve.types import FinishReason, SampleTimings, Usage


@dataclass(frozen=True, slots=True)
class RequestTimings:
    """When things happened to one request, in seconds since its call came."""

    first_token_seconds: float
    end_seconds: float
    queue_seconds: float | None = None
    """None: it never reached the engine, or nobody said."""


class RequestMetrics:
    """Told and asked in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tenants = TenantLabels()
        self._calls = Number(declared.CALLS)
        self._make_requests()
        self._make_samples()
        self._cells: list[Number | Distribution] = [
            cell for cell in vars(self).values() if isinstance(cell, Number | Distribution)
        ]

    def observe_call(self, method: str, code: str, tenant: str) -> None:
        with self._lock:
            self._calls.add(1, (method, code, self._tenants.of(tenant)))

    def observe_finished(
        self, usage: Usage, timings: RequestTimings, num_samples: int, tenant: str
    ) -> None:
        with self._lock:
            labels = (self._tenants.of(tenant),)
            self._requests.add(1, labels)
            self._prompt_tokens.add(usage.cached_tokens, ("cached", *labels))
            self._prompt_tokens.add(usage.shared_tokens, ("shared", *labels))
            self._prompt_tokens.add(usage.computed_tokens, ("computed", *labels))
            if usage.module_tokens:
                self._module_tokens.add(usage.module_tokens, ("read", *labels))
                self._module_tokens.add(usage.encoded_tokens, ("encoded", *labels))
            self._request_tokens.observe(usage.prompt_tokens)
            self._request_samples.observe(num_samples)
            self._first_token_seconds.observe(timings.first_token_seconds, labels)
            self._request_seconds.observe(timings.end_seconds, labels)
            if timings.queue_seconds is not None:
                self._queue_seconds.observe(timings.queue_seconds, labels)

    def observe_sample(
        self,
        reason: FinishReason,
        num_tokens: int,
        timings: SampleTimings | None,
        tenant: str,
    ) -> None:
        with self._lock:
            label = self._tenants.of(tenant)
            self._samples.add(1, (reason.value, label))
            self._tenant_tokens.add(num_tokens, (label,))
            self._sample_tokens.observe(num_tokens)
            if timings is not None:
                self._first_seconds.observe(timings.first_token_seconds)
                self._sample_seconds.observe(timings.total_seconds)

    def observe_token_seconds(self, seconds: float) -> None:
        with self._lock:
            self._token_seconds.observe(seconds)

    def families(self) -> Iterator[Metric]:
        with self._lock:
            families = [cell.family() for cell in self._cells]
        yield from families

    def _make_requests(self) -> None:
        self._requests = Number(declared.REQUESTS)
        self._prompt_tokens = Number(declared.PROMPT_TOKENS)
        self._module_tokens = Number(declared.MODULE_TOKENS)
        self._request_tokens = Distribution(declared.REQUEST_TOKENS)
        self._request_samples = Distribution(declared.REQUEST_SAMPLES)
        self._queue_seconds = Distribution(declared.QUEUE_SECONDS)
        self._first_token_seconds = Distribution(declared.FIRST_TOKEN_SECONDS)
        self._request_seconds = Distribution(declared.REQUEST_SECONDS)

    def _make_samples(self) -> None:
        self._samples = Number(declared.SAMPLES)
        self._tenant_tokens = Number(declared.TENANT_TOKENS)
        self._sample_tokens = Distribution(declared.SAMPLE_TOKENS)
        self._first_seconds = Distribution(declared.SAMPLE_FIRST_SECONDS)
        self._token_seconds = Distribution(declared.TOKEN_SECONDS)
        self._sample_seconds = Distribution(declared.SAMPLE_SECONDS)
