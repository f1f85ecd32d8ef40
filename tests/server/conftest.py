"""A server on free ports with a scripted text service behind it."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from treeserve.client import AsyncClient
from treeserve.errors import InvalidRequest
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2_grpc
from treeserve.server.app import Server
from treeserve.server.config import Address, ServerConfig
from treeserve.types import Delta, Finished, FinishReason, PromptTree, SamplingParams, Usage

USAGE = Usage(
    prompt_tokens=6, cached_tokens=3, shared_tokens=2, computed_tokens=1, completion_tokens=4
)


class ScriptedTextService:
    """Two deltas for each sample, unless the prompt says otherwise.

    "wait" stops after the first delta until `release` is set; "crash" raises; "invalid FIELD"
    refuses the request.
    """

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()
        self.seen: list[tuple[object, SamplingParams | None]] = []

    def generate(self, prompt, params):
        self.seen.append((prompt, params))
        if isinstance(prompt, str) and prompt.startswith("invalid "):
            raise InvalidRequest(prompt.removeprefix("invalid "), "must be right")
        return self._stream(prompt, [()], params.n)

    def generate_tree(self, tree: PromptTree):
        self.seen.append((tree, None))
        return self._stream(tree.text, [(0,), (1, 0)], 1)

    async def _stream(self, prompt, paths, n):
        try:
            for path in paths:
                for index in range(n):
                    yield Delta(path, index, "a", (1,))
                if prompt == "crash":
                    raise RuntimeError("a secret of the server")
                if prompt == "wait":
                    self.waiting.set()
                    await self.release.wait()
                for index in range(n):
                    yield Delta(path, index, "b", (2,), None, FinishReason.STOP)
                yield Finished(path, USAGE)
        finally:
            self.closed.set()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def text_service() -> ScriptedTextService:
    return ScriptedTextService()


@pytest.fixture
async def loading_server(metrics) -> AsyncIterator[Server]:
    """Listens, but has no model yet."""
    config = ServerConfig(
        grpc_address=Address("127.0.0.1", 0),
        http_address=Address("127.0.0.1", 0),
        drain_grace_seconds=30,
        max_calls=4,
    )
    server = Server(config, metrics)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def server(loading_server, text_service) -> Server:
    await loading_server.set_ready(text_service)
    return loading_server


@pytest.fixture
async def channel(loading_server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(str(loading_server.grpc_address)) as channel:
        yield channel


@pytest.fixture
async def stub(server, channel) -> generation_pb2_grpc.GenerationServiceStub:
    return generation_pb2_grpc.GenerationServiceStub(channel)


@pytest.fixture
async def client(loading_server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(str(loading_server.grpc_address)) as client:
        yield client
