"""A server over a real socket, with a model beneath it, and what its streams tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from held_engine import HeldEngine

from treeserve.building import build_engine
from treeserve.config import EngineOptions
from treeserve.engine import Engine
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc
from treeserve.prompt import Prompter
from treeserve.server.app import Server
from treeserve.server.config import Address, ServerConfig
from treeserve.server.contract import ServedModel


@dataclass
class RunningService:
    """The stub that calls it, and what lies beneath."""

    stub: generation_pb2_grpc.GenerationServiceStub
    text_service: TextService
    prompter: Prompter
    engine: Engine
    server: Server
    loop: EngineLoop
    held: HeldEngine

    async def wait_until_idle(self) -> None:
        assert await self.server._calls.wait_until_empty(60)
        assert await asyncio.to_thread(self.loop._wait_until_idle, 60)
        # Whoever looks finds no step on its way.
        assert not await self.loop.look(lambda engine: engine.has_work())

    async def assert_nothing_is_held(self) -> None:
        await self.wait_until_idle()
        counts = self.engine.scheduler.counts()
        assert counts.running_samples == counts.waiting_requests == 0
        assert counts.used_pages == counts.cached_pages
        self.engine.scheduler.check()


@asynccontextmanager
async def running_service(options: EngineOptions, **config) -> AsyncIterator[RunningService]:
    """Starts it, and stops it in the end; `config` is of the server."""
    built = build_engine(options)
    address = Address("127.0.0.1", 0)
    server = Server(ServerConfig(grpc_address=address, http_address=address, **config), Metrics())
    await server.start()
    held, loop = HeldEngine(built.engine), EngineLoop(built.engine)
    loop.start()
    text_service = TextService(loop, built.prompter)
    model = ServedModel("treeserve", built.model.max_positions)
    await server.set_ready(text_service, lambda: loop.healthy, model=model)
    async with grpc.aio.insecure_channel(str(server.grpc_address)) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        try:
            beneath = built.prompter, built.engine, server, loop, held
            yield RunningService(stub, text_service, *beneath)
        finally:
            await server.stop()
            loop.stop()


def bad_field_of(error: grpc.aio.AioRpcError) -> str:
    """The field that an error names in its google.rpc.BadRequest."""
    status = status_pb2.Status.FromString(error.trailing_metadata()["grpc-status-details-bin"])
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    return bad_request.field_violations[0].field


@dataclass
class Told:
    """What a stream told, put together again."""

    messages: list = field(default_factory=list)

    def samples(self, index: int = 0, path: tuple[int, ...] = ()) -> list[pb.SampleDelta]:
        return [
            entry
            for message in self.messages
            if tuple(getattr(message, "path", ())) == path
            for entry in message.samples
            if entry.index == index
        ]

    def tokens(self, index: int = 0, path: tuple[int, ...] = ()) -> list[int]:
        return [token for entry in self.samples(index, path) for token in entry.token_ids]

    def text(self, index: int = 0, path: tuple[int, ...] = ()) -> str:
        return "".join(entry.text for entry in self.samples(index, path))

    def last(self, index: int = 0, path: tuple[int, ...] = ()) -> pb.SampleDelta:
        return self.samples(index, path)[-1]

    @property
    def request_id(self) -> str:
        [started] = {m.started.request_id for m in self.messages if m.HasField("started")}
        return started

    @property
    def usage(self) -> pb.Usage:
        [usage] = [message.usage for message in self.messages if message.HasField("usage")]
        return usage


async def collect(call) -> Told:
    return Told([message async for message in call])


def parameters(max_tokens: int = 12, **sections) -> pb.Parameters:
    """Of samples that are always the same."""
    stopping = sections.pop("stopping", None) or pb.Stopping()
    stopping.max_tokens = max_tokens
    sections.setdefault("sampling", pb.Sampling(seed=7))
    return pb.Parameters(stopping=stopping, **sections)


def long_parameters() -> pb.Parameters:
    return parameters(400, stopping=pb.Stopping(ignore_eos=True))


async def error_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else collect(call))
    return caught.value
