"""Calls over a real socket, with the generated stubs, to a scripted text service."""

import asyncio
import gc

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc
from treeserve.server.app import Server
from treeserve.server.config import MAX_REQUEST_BYTES, Address, BindError, ServerConfig
from treeserve.server.service import _send_headers


async def error_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value


async def detail_of(error: grpc.aio.AioRpcError, detail):
    status = rpc_status.from_call(_AsCall(error))
    assert status is not None
    assert status.details[0].Unpack(detail)
    return detail


class _AsCall:
    """grpc_status reads synchronous calls only."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code
        self.details = error.details
        self.trailing_metadata = error.trailing_metadata


async def assert_still_serves(stub) -> None:
    responses = [r async for r in stub.Generate(pb.GenerateRequest(text="a"))]
    assert responses[-1].usage.prompt_tokens == 6


async def test_messages_say_whose_they_are(stub, text_service):
    responses = [r async for r in stub.Generate(pb.GenerateRequest(text="p", n=2))]
    samples = [(entry.index, entry.text) for r in responses for entry in r.samples]
    assert samples == [(0, "a"), (1, "a"), (0, "b"), (1, "b")]
    assert [r.HasField("usage") for r in responses][-1:] == [True]
    assert text_service.seen[0][0] == "p"


async def test_tree_messages_carry_the_path(stub):
    request = pb.GenerateTreeRequest(tree=pb.TreeNode(text="p"))
    responses = [r async for r in stub.GenerateTree(request)]
    usages = [tuple(r.path) for r in responses if r.HasField("usage")]
    assert usages == [(0,), (1, 0)]
    assert {tuple(r.path) for r in responses} == {(0,), (1, 0)}


@pytest.mark.parametrize(
    ("request_message", "field", "description"),
    [
        (
            pb.GenerateRequest(text="invalid max_tokens"),
            "params.stopping.max_tokens",
            "must be right",
        ),
        (pb.GenerateRequest(n=2), "prompt", "must be given, as text, token_ids, chat or modules"),
    ],
)
async def test_bad_input_is_named_and_the_server_lives_on(
    stub, request_message, field, description
):
    error = await error_of(stub.Generate(request_message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == f"{field}: {description}"
    bad_request = await detail_of(error, error_details_pb2.BadRequest())
    [violation] = bad_request.field_violations
    assert (violation.field, violation.description) == (field, description)
    await assert_still_serves(stub)


async def test_invalid_utf8_is_the_callers_error(stub, channel):
    method = channel.unary_stream(f"/{pb.DESCRIPTOR.package}.GenerationService/Generate")
    error = await error_of(method(b"\x0a\x02a\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad_request = await detail_of(error, error_details_pb2.BadRequest())
    assert bad_request.field_violations[0].field == "text"
    await assert_still_serves(stub)


async def test_a_request_beyond_the_size_limit_is_refused(stub):
    error = await error_of(stub.Generate(pb.GenerateRequest(text="x" * (MAX_REQUEST_BYTES + 1))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await assert_still_serves(stub)


async def test_a_crash_ends_its_call_alone_and_tells_no_secrets(stub, text_service, caplog):
    waiting = stub.Generate(pb.GenerateRequest(text="wait"))
    await text_service.waiting.wait()
    error = await error_of(stub.Generate(pb.GenerateRequest(text="crash")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert "a secret of the server" in caplog.text
    text_service.release.set()
    responses = [r async for r in waiting]
    assert "".join(entry.text for r in responses for entry in r.samples) == "ab"


async def test_cancelling_closes_the_stream(stub, server, text_service):
    call = stub.Generate(pb.GenerateRequest(text="wait"))
    await call.read()
    await text_service.waiting.wait()
    call.cancel()
    await asyncio.wait_for(text_service.closed.wait(), 60)


async def test_a_deadline_closes_the_stream(stub, text_service):
    seconds = 0.05
    # It may pass before the call has come, and then there is no stream to close.
    while not text_service.waiting.is_set():
        error = await error_of(stub.Generate(pb.GenerateRequest(text="wait"), timeout=seconds))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        seconds *= 2
    await asyncio.wait_for(text_service.closed.wait(), 60)


async def test_the_deadline_of_the_call_goes_with_the_request(stub, text_service):
    options = pb.RequestOptions(request_id="mine", priority=3, group="g")
    request = pb.GenerateRequest(text="a", options=options)
    for timeout in (None, 30):
        assert [r async for r in stub.Generate(request, timeout=timeout)]
    without, with_deadline = text_service.options
    assert without.deadline is None
    assert 0 < with_deadline.deadline - with_deadline.arrived_at < 60
    asked = (with_deadline.request_id, with_deadline.priority, with_deadline.group)
    assert asked == ("mine", 3, "g")


async def test_too_many_calls_are_refused_with_a_time_to_try_again(stub, server, text_service):
    calls = [aiter(stub.Generate(pb.GenerateRequest(text="wait"))) for _ in range(4)]
    for call in calls:
        await anext(call)
    assert server.num_calls == 4
    error = await error_of(stub.Generate(pb.GenerateRequest(text="p")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = await detail_of(error, error_details_pb2.RetryInfo())
    assert retry.retry_delay.seconds == 1
    text_service.release.set()
    for call in calls:
        assert [r async for r in call][-1].usage.prompt_tokens == 6
    await assert_still_serves(stub)


async def test_calls_are_refused_until_the_model_is_loaded(loading_server, channel):
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    error = await error_of(stub.Generate(pb.GenerateRequest(text="p")))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "loading" in error.details()


@pytest.mark.parametrize("taken", ["grpc_address", "http_address"])
async def test_an_address_in_use_is_named(server, metrics, taken):
    addresses = {name: Address("127.0.0.1", 0) for name in ("grpc_address", "http_address")}
    addresses[taken] = getattr(server, taken)
    second = Server(ServerConfig(**addresses), metrics)
    with pytest.raises(BindError, match=f"{taken}: cannot listen on 127.0.0.1:.*in use"):
        await second.start()
    await second.stop()


async def test_headers_for_a_caller_who_has_gone_leave_no_error_in_the_log(caplog):
    """Cancelled while gRPC sends them, which then fails; no client can choose that moment."""
    # What other tests have left behind complains before, not in the middle.
    gc.collect()
    caplog.clear()
    sent = asyncio.Event()

    class Gone:
        async def send_initial_metadata(self, metadata) -> None:
            await sent.wait()
            raise RuntimeError("the caller has gone")

    sending = asyncio.create_task(_send_headers(Gone()))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.sleep(0)
    sent.set()
    await asyncio.wait([sending])
    assert sending.cancelled()
    del sending
    gc.collect()
    assert [record.name for record in caplog.records if record.name == "asyncio"] == []
