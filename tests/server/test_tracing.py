"""Spans of calls, as OpenTelemetry's SDK has them."""

import asyncio
import sys

import pytest
from server.listening import connected, generate, listening

from treeserve.server.engine_watch import EngineWatch
from treeserve.server.tracing import Tracing, configured_tracing
from treeserve.types import StepNumbers

sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEP = StepNumbers(
    running_samples=0,
    waiting_requests=1,
    used_pages=0,
    cached_pages=0,
    total_pages=1,
    evicted_tokens=0,
)


@pytest.fixture
def spans():
    """What was exported, and the tracing that does so."""
    exporter = in_memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    yield exporter, tracing
    tracing.close()


async def test_a_call_is_a_span_and_its_phases_lie_within_it(spans, text_service):
    exporter, tracing = spans
    watch = EngineWatch()
    headers = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "r-1"))
    async with (
        listening(text_service, watch, tracing=tracing) as server,
        connected(server) as stub,
    ):
        call = asyncio.create_task(generate(stub, "queue", metadata=headers))
        await text_service.waiting.wait()
        watch.observe(STEP, lambda request_id: True)
        watch.observe(STEP, lambda request_id: False)
        text_service.release.set()
        assert (await call).code == "OK"
    named = {span.name: span for span in exporter.get_finished_spans()}
    whole = named.pop("treeserve.v1.GenerationService/Generate")
    queue, prefill, decode = (named.pop(name) for name in ("queue", "prefill", "decode"))
    assert named == {}
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == CALLER
    assert {s.parent.span_id for s in (queue, prefill, decode)} == {whole.context.span_id}
    ends = [queue.start_time, queue.end_time, prefill.end_time, decode.end_time]
    assert ends == sorted(ends)
    assert [prefill.start_time, decode.start_time] == ends[1:3]
    assert (whole.start_time, whole.end_time) == (ends[0], ends[-1])
    assert queue.end_time > queue.start_time
    assert whole.attributes["treeserve.request_id"] == "r-1"
    assert whole.attributes["treeserve.prompt_tokens"] == 6
    assert whole.attributes["rpc.grpc.status_code"] == 0


async def test_a_refused_call_is_a_span_without_phases(spans, text_service):
    exporter, tracing = spans
    async with listening(text_service, tracing=tracing) as server, connected(server) as stub:
        assert (await generate(stub, "invalid n")).code == "INVALID_ARGUMENT"
    [span] = exporter.get_finished_spans()
    assert span.parent is None
    assert (span.status.status_code.name, span.status.description) == ("ERROR", "INVALID_ARGUMENT")
    assert span.attributes["rpc.grpc.status_code"] == 3


async def test_no_text_is_in_any_span(spans, text_service):
    exporter, tracing = spans
    async with listening(text_service, tracing=tracing) as server, connected(server) as stub:
        for text in ("the text", "invalid the text"):
            await generate(stub, text)
    assert "the text" not in "".join(span.to_json() for span in exporter.get_finished_spans())


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_are_no_traces_unless_the_environment_asks_for_them(environment):
    assert configured_tracing(environment) is None


def test_traces_without_their_package_are_warned_of(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    assert configured_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}) is None
    assert "traces need treeserve[otel]" in caplog.text
