"""OpenTelemetry traces: a span for a call, and beneath it its queue, prefill and decode."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import grpc

from treeserve.server.call_log import CallRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_COUNTS = ("prompt_tokens", "cached_tokens", "shared_tokens", "computed_tokens", "drawn_tokens")


class Tracing:
    """Writes the spans of a call when it has ended: nothing is done while it streams.

    Args:
        provider: Of OpenTelemetry's SDK; decides which calls are sampled, and where spans go.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("treeserve")

    def trace(self, record: CallRecord, code: str) -> str:
        """Write a call's spans, beneath the caller's if it sent a traceparent.

        Returns:
            The trace's id, in hex.
        """
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(record.trace_headers)
        call = self._tracer.start_span(
            f"{record.service}/{record.method}",
            parent,
            kind=SpanKind.SERVER,
            attributes=_attributes(record, code),
            start_time=record.started_ns,
        )
        if code != grpc.StatusCode.OK.name:
            call.set_status(StatusCode.ERROR, code)
        total = record.clock() - record.started
        beneath = set_span_in_context(call)
        for name, start, end in _phases(record, total):
            span = self._tracer.start_span(name, beneath, start_time=_ns(record, start))
            span.end(_ns(record, end))
        call.end(_ns(record, total))
        return f"{call.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def configured_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """Tracing where OpenTelemetry's own variables ask for it: one that names an OTLP endpoint.

    Args:
        environment: Where OTEL_SDK_DISABLED=true and OTEL_TRACES_EXPORTER=none switch it off; the
            exporter and the SDK read the others themselves.
    """
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    if disabled or exporter == "none" or not any(environment.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, and traces need treeserve[otel]")
        return None
    name = environment.get("OTEL_SERVICE_NAME", "treeserve")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _phases(record: CallRecord, total: float) -> list[tuple[str, float, float]]:
    """Names, beginnings and ends of what the call has reached, in seconds since it came."""
    queue, first = record.queue_seconds, record.first_token_seconds
    if queue is None:
        return []
    phases = [("queue", 0.0, queue)]
    if first is not None or record.has_left_queue:
        phases.append(("prefill", queue, total if first is None else first))
    if first is not None:
        phases.append(("decode", first, total))
    return phases


def _attributes(record: CallRecord, code: str) -> dict[str, Any]:
    return {
        "rpc.system": record.system,
        "rpc.service": record.service,
        "rpc.method": record.method,
        "rpc.grpc.status_code": grpc.StatusCode[code].value[0],
        "treeserve.request_id": record.request_id,
        "treeserve.tenant": record.identity.tenant,
        **{f"treeserve.{name}": getattr(record, name) for name in _COUNTS},
    }


def _ns(record: CallRecord, seconds: float) -> int:
    return record.started_ns + round(seconds * 1e9)
