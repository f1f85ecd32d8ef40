"""A real server with an embedded-like tiny model, and stubs of all its services."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
import pytest
from held_engine import HeldEngine
from server.listening import bearer

from treeserve.building import BuiltEngine, build_engine
from treeserve.commands.backstage import BackstageOptions, make_backstage
from treeserve.config import EngineOptions
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.metrics import Metrics
from treeserve.pb import (
    admin_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    module_pb2_grpc,
    prefix_pb2,
    prefix_pb2_grpc,
    tree_pb2_grpc,
)
from treeserve.prefixes.folder import PrefixFolder
from treeserve.scheduler.tree.computed import computed_slots
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.server.app import Server
from treeserve.server.backstage import Backstage
from treeserve.server.config import AccessConfig, Address, ServerConfig
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.identity import Allowance, Permission
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret
from treeserve.types import StepNumbers

ANY = Address("127.0.0.1", 0)
PAGE = 16


HOME = "home"
"""The tenant of calls that say nothing of keys."""


class WithKey:
    """A stub whose calls show the house's own key, unless they bring metadata."""

    def __init__(self, stub, key) -> None:
        self._stub = stub
        self._key = key

    def __getattr__(self, method: str):
        call = getattr(self._stub, method)
        return lambda request, metadata=None, **more: call(
            request, metadata=self._key if metadata is None else metadata, **more
        )


@dataclass
class House:
    """A running server and what lies beneath it."""

    server: Server
    built: BuiltEngine
    loop: EngineLoop
    backstage: Backstage
    folder: Path | None
    key_file: Path
    channel: grpc.aio.Channel
    admin_channel: grpc.aio.Channel
    metrics: Metrics

    def __post_init__(self) -> None:
        self.held = HeldEngine(self.built.engine)
        self.keys: dict[str, tuple[tuple[str, str], ...]] = {}
        self.own_key = key = self.key_of(HOME)
        self.generation = WithKey(generation_pb2_grpc.GenerationServiceStub(self.channel), key)
        self.tree = WithKey(tree_pb2_grpc.TreeServiceStub(self.channel), key)
        self.prefix = WithKey(prefix_pb2_grpc.PrefixServiceStub(self.channel), key)
        self.module = WithKey(module_pb2_grpc.ModuleServiceStub(self.channel), key)
        self.admin = WithKey(admin_pb2_grpc.AdminServiceStub(self.admin_channel), key)

    def new_key(
        self, tenant: str = HOME, permissions: str = ",".join(Permission), **allowance: int
    ) -> tuple[tuple[str, str], ...]:
        """The metadata of a key that the server knows from now on."""
        key_id, secret = new_secret()
        key = ApiKey(
            key_id=key_id,
            digest=digest_of(secret),
            tenant=tenant,
            permissions=frozenset(Permission(p) for p in permissions.split(",")),
            allowance=Allowance(**allowance),
        )
        add_key(self.key_file, key)
        self.server.reload()
        return bearer(secret)

    def key_of(self, tenant: str) -> tuple[tuple[str, str], ...]:
        """One with every permission, the same every time."""
        if tenant not in self.keys:
            self.keys[tenant] = self.new_key(tenant)
        return self.keys[tenant]

    @property
    def scheduler(self):
        return self.built.engine.scheduler

    async def generate(self, prompt, max_tokens: int = 12, **sampling):
        """(token ids of the one greedy sample, usage)"""
        content = {"text": prompt} if isinstance(prompt, str) else {"token_ids": ids(prompt)}
        params = generation_pb2.Parameters(
            sampling=generation_pb2.Sampling(temperature=0, **sampling),
            stopping=generation_pb2.Stopping(max_tokens=max_tokens, ignore_eos=True),
        )
        tokens: list[int] = []
        usage = None
        request = generation_pb2.GenerateRequest(params=params, **content)
        async for message in self.generation.Generate(request):
            for sample in message.samples:
                tokens.extend(sample.token_ids)
            if message.HasField("usage"):
                usage = message.usage
        return tokens, usage

    async def calls_have_ended(self, within_seconds: float) -> None:
        """Waits for it: a client knows of the end of a call a little before the server does."""
        assert await self.server._calls.wait_until_empty(within_seconds)

    async def check(self) -> None:
        """The books balance, and nothing is held by anybody."""
        assert await asyncio.to_thread(self.loop._wait_until_idle, 60)

        def check(engine) -> None:
            engine.scheduler.check()
            counts = engine.scheduler.counts()
            assert counts.used_pages == counts.cached_pages
            assert counts.running_samples == counts.waiting_requests == 0

        await self.loop.look(check)


def ids(values) -> generation_pb2.TokenIds:
    return generation_pb2.TokenIds(ids=values)


def prefix(content) -> prefix_pb2.Prefix:
    if isinstance(content, str):
        return prefix_pb2.Prefix(text=content)
    return prefix_pb2.Prefix(token_ids=prefix_pb2.Prefix.TokenIds(ids=content))


@contextlib.asynccontextmanager
async def running_house(
    options: EngineOptions,
    folder: Path | None = None,
    *,
    show_text: bool = False,
    max_bytes: int = 1 << 30,
    built: BuiltEngine | None = None,
    **config: Any,
) -> AsyncIterator[House]:
    built = built or build_engine(options)
    metrics, watch = Metrics(), EngineWatch()
    with TemporaryDirectory() as keys:
        key_file = Path(keys) / "keys.jsonl"
        key_file.touch(mode=0o600)
        # Changes are looked at when a test says so.
        access = AccessConfig(api_keys=key_file, reload_seconds=1e6)
        addresses = {"grpc_address": ANY, "http_address": ANY, "admin_address": ANY}
        given = {"drain_grace_seconds": 60, **addresses, "access": access, **config}
        server = Server(ServerConfig(**given), metrics, watch)
        await server.start()

        def observe(numbers: StepNumbers) -> None:
            metrics.observe_step(numbers)
            watch.observe(numbers, built.engine.scheduler.is_waiting)

        loop = EngineLoop(built.engine, observe)
        loop.start()
        saved = None if folder is None else PrefixFolder(folder, max_bytes)
        backstage = make_backstage(
            built,
            {field.name: getattr(options, field.name) for field in fields(options)},
            BackstageOptions(show_text, saved),
            loop,
        )
        text_service = TextService(loop, built.prompter)
        await server.set_ready(text_service, lambda: loop.healthy, backstage)
        async with (
            grpc.aio.insecure_channel(str(server.grpc_address)) as channel,
            grpc.aio.insecure_channel(str(server.side.admin_address)) as admin_channel,
        ):
            channels = channel, admin_channel
            house = House(server, built, loop, backstage, folder, key_file, *channels, metrics)
            try:
                yield house
            finally:
                await server.stop()
                loop.stop()


async def error_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _end(call)
    return caught.value


async def _end(call) -> None:
    if not hasattr(call, "__aiter__"):
        await call
        return
    async for _ in call:
        pass


async def kv_of(house: House, text: str, namespace: str = HOME):
    tokens = np.array(house.built.prompter.tokenizer.encode(text), dtype=np.int32)

    def read(engine):
        slots = computed_slots(engine.scheduler.insides()[0], Prefix(tokens, namespace))
        return house.built.kv_cache.read_slots(slots)

    return await house.loop.look(read)


async def clear(house: House) -> None:
    await house.loop.call(lambda engine: engine.scheduler.clear_cache())
