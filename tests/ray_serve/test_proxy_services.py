"""What Ray's gRPC proxy is made to pass on, with real gRPC and without Ray."""

from types import SimpleNamespace

import grpc
import pytest

from treeserve.ray.proxy_services import (
    SECONDS_LEFT,
    ProxyHandlers,
    add_admin_service,
    add_generation_service,
    add_module_service,
    add_prefix_service,
    add_tree_service,
)

PATH = "/test.Service/"


class Proxy:
    """Answers with what it sees of a call, as Ray's own handlers would see it."""

    def __init__(self):
        self.seen = []

    async def answer(self, request, context):
        self.seen.append(dict(context.invocation_metadata()))
        return request

    async def stream(self, request, context):
        yield b"first"
        context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
        context.set_details("full")
        context.set_trailing_metadata((("more", "said"),))
        yield b"only carries the status"

    async def last_left(self, channel, **options) -> str:
        await channel.unary_unary(f"{PATH}Answer")(b"", **options)
        return self.seen[-1][SECONDS_LEFT]


@pytest.fixture
async def proxy():
    made = Proxy()
    handlers = ProxyHandlers(
        {
            f"{PATH}Answer": grpc.unary_unary_rpc_method_handler(made.answer),
            f"{PATH}Stream": grpc.unary_stream_rpc_method_handler(made.stream),
        }
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield SimpleNamespace(proxy=made, channel=channel)
    await server.stop(None)


async def test_a_call_is_told_how_long_its_caller_waits_for_it(proxy):
    assert 0 < float(await proxy.proxy.last_left(proxy.channel, timeout=30)) <= 30
    assert await proxy.proxy.last_left(proxy.channel) == ""


async def test_no_caller_can_say_so_itself(proxy):
    metadata = ((SECONDS_LEFT, "1000000"), ("other", "kept"))
    assert await proxy.proxy.last_left(proxy.channel, metadata=metadata) == ""
    assert proxy.proxy.seen[-1]["other"] == "kept"


async def test_what_a_refusal_says_arrives_and_its_message_does_not(proxy):
    call = proxy.channel.unary_stream(f"{PATH}Stream")(b"")
    got = []

    async def read() -> None:
        async for message in call:
            got.append(message)

    with pytest.raises(grpc.aio.AioRpcError, match="full") as refused:
        await read()
    assert got == [b"first"]
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.value.trailing_metadata())["more"] == "said"


async def test_a_method_that_is_not_there_is_unknown(proxy):
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await proxy.channel.unary_unary(f"{PATH}Nothing")(b"")
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_every_service_is_registered_once_under_its_own_name():
    registered = []
    server = SimpleNamespace(
        add_generic_rpc_handlers=lambda handlers: registered.extend(handlers[0]._method_handlers)
    )
    for add in (
        add_generation_service,
        add_tree_service,
        add_prefix_service,
        add_module_service,
        add_admin_service,
    ):
        add(Servicer(), server)
    assert len(registered) == len(set(registered))
    assert {path.split("/")[1].removeprefix("treeserve.v1.") for path in registered} == {
        "GenerationService", "TreeService", "PrefixService", "ModuleService", "AdminService"
    }  # fmt: skip


class Servicer:
    """Has a method of any name."""

    def __getattr__(self, name):
        return name
