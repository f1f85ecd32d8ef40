"""A server on free ports with a scripted text service behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
import pytest

from treeserve.client import AsyncClient
from treeserve.errors import InvalidRequest
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2_grpc
from treeserve.request_size import RequestSize
from treeserve.server.app import Server
from treeserve.server.config import Address, LoadConfig, ServerConfig
from treeserve.types import (
    Chat,
    Delta,
    Finished,
    FinishReason,
    PromptTree,
    RequestOptions,
    SamplingParams,
    Usage,
)

USAGE = Usage(
    prompt_tokens=6, cached_tokens=3, shared_tokens=2, computed_tokens=1, completion_tokens=4
)


class ScriptedTextService:
    """Two deltas for each sample, unless the prompt says otherwise.

    "wait" stops after the first delta until `release` is set, "queue" before it; "crash" raises;
    "invalid FIELD" refuses the request; "flood" draws until the stream is closed, as does "burst"
    after three million characters at once; "much" draws twenty million; "length" ends at its most
    tokens. A prompt has as many tokens as characters, and a chat as many as messages.
    """

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()
        self.seen: list[tuple[object, SamplingParams | None]] = []
        self.options: list[RequestOptions] = []

    def generate(self, prompt, params, *, output, options, admit):
        self.seen.append((prompt, params))
        self.options.append(options)
        if isinstance(prompt, str) and prompt.startswith("invalid "):
            raise InvalidRequest(prompt.removeprefix("invalid "), "must be right")
        length = len(prompt.messages) if isinstance(prompt, Chat) else len(prompt)
        num_tokens = length + params.n * params.max_tokens
        size = RequestSize((((), num_tokens),))
        return self._admitted(prompt, [()], params.n, admit(size))

    def generate_tree(self, tree: PromptTree, *, options, admit, importing=None):
        self.seen.append((tree, None))
        self.options.append(options)
        paths = [(0,), (1, 0)]
        size = RequestSize(tuple((path, 10) for path in paths))
        return self._admitted(tree.text, paths, 1, admit(size))

    async def _admitted(self, prompt, paths, n, admitted):
        with admitted:
            async with aclosing(self._stream(prompt, paths, n)) as items:
                async for item in items:
                    yield item

    async def _stream(self, prompt, paths, n):
        try:
            for path in paths:
                if prompt == "queue":
                    self.waiting.set()
                    await self.release.wait()
                async for delta in self._flood(prompt, path):
                    yield delta
                for index in range(n):
                    yield Delta(path, index, "a", (1,))
                if prompt == "crash":
                    raise RuntimeError("a secret of the server")
                if prompt == "wait":
                    self.waiting.set()
                    await self.release.wait()
                reason = FinishReason.LENGTH if prompt == "length" else FinishReason.STOP
                for index in range(n):
                    yield Delta(path, index, "b", (2,), None, reason)
                yield Finished(path, USAGE)
        finally:
            self.closed.set()

    async def _flood(self, prompt, path):
        if prompt == "much":
            for _ in range(20_000):
                yield Delta(path, 0, "x" * 1000, (1,))
                await asyncio.sleep(0)
        if prompt == "burst":
            yield Delta(path, 0, "x" * 3_000_000, (1,))
            await asyncio.sleep(0)
            self.waiting.set()
        while prompt in ("burst", "flood"):
            yield Delta(path, 0, "x" * 10_000, (1,))
            await asyncio.sleep(0)


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
        load=LoadConfig(max_calls=4),
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
