"""Servers of any configuration, and calls to them."""

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc
from treeserve.server.app import Server
from treeserve.server.config import Address, ServerConfig
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.tracing import Tracing

LOOPBACK = Address("127.0.0.1", 0)


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: str
    details: str
    text: str
    metadata: dict[str, object]

    @property
    def retry_seconds(self) -> float | None:
        data = self.metadata.get("grpc-status-details-bin")
        for detail in status_pb2.Status.FromString(data).details if data else ():
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                return retry.retry_delay.ToMilliseconds() / 1000
        return None


@asynccontextmanager
async def listening(
    text_service, watch: EngineWatch | None = None, tracing: Tracing | None = None, **options
) -> AsyncIterator[Server]:
    """A ready server on free ports."""
    config = ServerConfig(**{"grpc_address": LOOPBACK, "http_address": LOOPBACK, **options})
    server = Server(config, Metrics(), watch, tracing)
    await server.start()
    await server.set_ready(text_service)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(
    server: Server, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[generation_pb2_grpc.GenerationServiceStub]:
    # Channels to equal addresses and credentials would share connections.
    options = (("grpc.use_local_subchannel_pool", 1),)
    target = str(server.grpc_address)
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=options)
    async with channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def generate(
    stub, text: str = "p", *, key: str | None = None, metadata: Sequence = (), **fields
) -> Outcome:
    """One call, to its end."""
    given = (*metadata, *(() if key is None else bearer(key)))
    call = stub.Generate(pb.GenerateRequest(text=text, **fields), metadata=given, timeout=60)
    return await outcome_of(call)


async def outcome_of(call) -> Outcome:
    parts = []
    try:
        async for response in call:
            parts += [sample.text for sample in response.samples]
        code, details = "OK", ""
    except grpc.aio.AioRpcError as error:
        code, details = error.code().name, error.details()
    metadata = dict(await call.trailing_metadata())
    return Outcome(code, details, "".join(parts), metadata)


async def fetch(
    server: Server, path: str, *, key: str | None = None, tls: ssl.SSLContext | None = None
) -> tuple[int, str]:
    """Status and body of an HTTP request."""
    scheme = "http" if tls is None else "https"
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{scheme}://{server.http_address}{path}", headers=headers)

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=60, context=tls) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)
