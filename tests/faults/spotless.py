"""A server of which nothing may be left: no page, no call, no thread, no task."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from google.protobuf.descriptor import MethodDescriptor
from server.side_house import House, running_house

from treeserve.config import EngineOptions
from treeserve.pb import admin_pb2, generation_pb2, module_pb2, prefix_pb2, tree_pb2

CODE = grpc.StatusCode
METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for module in (generation_pb2, tree_pb2, prefix_pb2, module_pb2, admin_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Of all services, by name."""
TRUNK = "What many prompts begin with is computed and stored once. " * 3
WAIT_SECONDS = 60


@asynccontextmanager
async def spotless_house(options: EngineOptions, folder=None, **more) -> AsyncIterator[House]:
    """A server with all services; what runs in the end is waited for, and nothing may be held."""
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with running_house(options, folder, **more) as house:
        yield house
        await nothing_is_held(house)
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith("treeserve"):
            await asyncio.to_thread(thread.join, WAIT_SECONDS)
            assert not thread.is_alive(), thread.name
    left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    if left:
        _, stuck = await asyncio.wait(left, timeout=WAIT_SECONDS)
        assert not stuck, stuck


async def nothing_is_held(house: House) -> None:
    """Once all calls have ended: no sample outlives its call, and the books balance."""
    await house.calls_have_ended(WAIT_SECONDS)
    # What ended the calls is in the loop's inbox before this look.
    counts = await house.loop.look(lambda engine: engine.scheduler.counts())
    assert (counts.running_samples, counts.waiting_requests) == (0, 0)
    await house.check()
    assert {what: number for what, number in held(house).items() if number} == {}


def held(house: House) -> dict[str, int]:
    """What calls take up on their way from the socket to the engine."""
    service = house.server._service
    doors, texts = service._doors, service._generating.text_service
    return {
        "calls": doors.calls.num_running,
        "waiting prompts": doors.waiting.num_requests,
        "waiting tokens": doors.waiting.num_tokens,
        "calls of keys": sum(use.num_requests for use in doors.quotas._uses.values()),
        "tokens of keys": sum(use.num_tokens for use in doors.quotas._uses.values()),
        "watched streams": doors.watch._num_streams,
        "live requests of the book": len(texts._book._running),
        "live texts": len(texts._live),
        "streams of the loop": len(house.loop._streams),
        "open requests of the loop": len(house.loop._open_requests),
        "requests of the engine": len(house.built.engine._live),
    }


async def serves(house: House) -> None:
    """Whatever happened, the next caller is served."""
    tokens, _ = await house.generate("abc", 3)
    assert len(tokens) == 3


async def call(
    house: House, method: str, data: bytes, metadata=None, timeout: float = WAIT_SECONDS
) -> tuple[grpc.StatusCode, str]:
    """(code, details) of a call with these very bytes; of a watch, its first message is awaited."""
    found = METHODS[method]
    is_admin = found.containing_service.name == "AdminService"
    channel = house.admin_channel if is_admin else house.channel
    name = f"/{found.containing_service.full_name}/{method}"
    given = {"metadata": house.own_key if metadata is None else metadata, "timeout": timeout}
    if not found.server_streaming:
        unary = channel.unary_unary(name)(data, **given)
        return await unary.code(), await unary.details()
    stream = channel.unary_stream(name)(data, **given)
    try:
        if method == "WatchTree":
            if await stream.read() is not grpc.aio.EOF:
                stream.cancel()
                return CODE.OK, ""
        else:
            async for _ in stream:
                pass
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return await stream.code(), await stream.details()


async def began(stream) -> str:
    """Waits until a request draws; its id."""
    request_id = ""
    async for message in stream:
        if message.HasField("started"):
            request_id = message.started.request_id
        if any(sample.token_ids for sample in message.samples):
            return request_id
    raise AssertionError("it drew nothing")
