"""How a server goes down: health, readiness, running streams, refused calls."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from treeserve.client import RemoteError
from treeserve.metrics import Metrics
from treeserve.server.app import Server
from treeserve.server.config import Address, ServerConfig

SERVICE = "treeserve.v1.GenerationService"


async def health_of(channel: grpc.aio.Channel, service: str = SERVICE) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


async def collect(stream) -> str:
    return "".join([item.text async for item in stream if hasattr(item, "text")])


async def test_health_follows_the_server(loading_server, channel, text_service):
    assert await health_of(channel) == "NOT_SERVING"
    await loading_server.set_ready(text_service)
    assert await health_of(channel) == "SERVING"
    assert await health_of(channel, "") == "SERVING"
    await loading_server.drain()
    assert await health_of(channel) == "NOT_SERVING"


async def test_a_running_stream_ends_well_and_new_calls_are_refused(server, client, text_service):
    running = asyncio.create_task(collect(client.generate("wait")))
    await text_service.waiting.wait()
    draining = asyncio.create_task(server.drain())
    with pytest.raises(RemoteError, match="UNAVAILABLE: the server is draining"):
        await collect(client.generate("p"))
    assert not draining.done()
    text_service.release.set()
    assert await draining is True
    assert await running == "ab"


async def test_what_outlasts_the_grace_is_cut_short(text_service):
    from treeserve.client import AsyncClient

    address = Address("127.0.0.1", 0)
    config = ServerConfig(grpc_address=address, http_address=address, drain_grace_seconds=0.01)
    server = Server(config, Metrics())
    await server.start()
    await server.set_ready(text_service)
    async with AsyncClient(str(server.grpc_address)) as client:
        running = asyncio.create_task(collect(client.generate("wait")))
        await text_service.waiting.wait()
        assert await server.drain() is False
        await server.stop()
        with pytest.raises(RemoteError, match="UNAVAILABLE: the server shut down"):
            await running
    assert text_service.closed.is_set()
