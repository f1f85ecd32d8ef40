"""Tenants, limits and failures, from the socket down to a tiny random model."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from held_engine import HeldEngine
from server.listening import bearer, connected, generate, listening, outcome_of

from treeserve.building import BuiltEngine, build_engine
from treeserve.commands import serve
from treeserve.commands.backstage import BackstageOptions, make_backstage
from treeserve.config import EngineOptions, RequestLimits
from treeserve.errors import EngineStopped
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.server.app import Server
from treeserve.server.config import AccessConfig, Address, LoadConfig, ServerConfig
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret
from treeserve.types import SamplingParams

PROMPT = "What many prompts begin with is computed and stored once. " * 3
SHORT = pb.Parameters(stopping=pb.Stopping(max_tokens=2, ignore_eos=True))
LONG = pb.Parameters(stopping=pb.Stopping(max_tokens=400, ignore_eos=True))


@dataclass(frozen=True)
class Running:
    """A server with an engine behind it."""

    server: Server
    loop: EngineLoop
    held: HeldEngine

    async def check(self) -> None:
        """Soon all has ended, and nothing is held."""
        assert await self.server._calls.wait_until_empty(60)
        assert await asyncio.to_thread(self.loop._wait_until_idle, 60)

        def check(engine) -> None:
            counts = engine.scheduler.counts()
            assert (counts.running_samples, counts.waiting_requests) == (0, 0)
            assert counts.used_pages == counts.cached_pages
            engine.scheduler.check()

        await self.loop.look(check)


def build(checkpoint_of, max_running: int = 256, **limits) -> BuiltEngine:
    model = str(checkpoint_of("llama"))
    options = EngineOptions(
        model=model, num_pages=96, max_running=max_running, limits=RequestLimits(**limits)
    )
    return build_engine(options)


@asynccontextmanager
async def running(built: BuiltEngine, **options) -> AsyncIterator[Running]:
    observers = serve._Observers(Metrics(), EngineWatch(), None)
    held = HeldEngine(built.engine)
    loop = EngineLoop(built.engine, partial(observers.observe, built.engine.scheduler.is_waiting))
    loop.start()
    text_service = TextService(loop, built.prompter)
    try:
        async with listening(text_service, observers.watch, **options) as server:
            yield Running(server, loop, held)
    finally:
        loop.stop()


async def usage_of(stub, key: str) -> pb.Usage:
    request = pb.GenerateRequest(text=PROMPT, params=SHORT)
    responses = [r async for r in stub.Generate(request, metadata=bearer(key))]
    return responses[-1].usage


async def test_equal_prompts_of_two_tenants_share_nothing(checkpoint_of, tmp_path):
    path, secrets = tmp_path / "keys", {}
    for name, tenant in (("a", "acme"), ("second of a", "acme"), ("b", "bolt")):
        key_id, secrets[name] = new_secret()
        add_key(path, ApiKey(key_id=key_id, digest=digest_of(secrets[name]), tenant=tenant))
    access = AccessConfig(api_keys=path)
    built = build(checkpoint_of)
    async with running(built, access=access) as house, connected(house.server) as stub:
        first = await usage_of(stub, secrets["a"])
        stranger = await usage_of(stub, secrets["b"])
        second = await usage_of(stub, secrets["second of a"])
        await house.check()
    assert first.computed_tokens == first.prompt_tokens
    assert stranger.computed_tokens == stranger.prompt_tokens
    assert (stranger.cached_tokens, stranger.shared_in_flight_tokens) == (0, 0)
    assert second.computed_tokens < 0.2 * second.prompt_tokens


async def test_equal_prompts_of_two_tenants_at_once_share_nothing(checkpoint_of, tmp_path):
    path, secrets = tmp_path / "keys", []
    for tenant in ("acme", "bolt"):
        key_id, secret = new_secret()
        add_key(path, ApiKey(key_id=key_id, digest=digest_of(secret), tenant=tenant))
        secrets += [secret]
    built = build(checkpoint_of)
    async with (
        running(built, access=AccessConfig(api_keys=path)) as house,
        connected(house.server) as stub,
    ):
        usages = await asyncio.gather(*(usage_of(stub, secret) for secret in secrets))
    assert [u.computed_tokens for u in usages] == [u.prompt_tokens for u in usages]


async def test_a_reader_that_is_cut_off_leaves_nothing_running(checkpoint_of):
    built = build(checkpoint_of)
    load = LoadConfig(max_buffered_bytes=1)
    async with running(built, load=load) as house, connected(house.server) as stub:
        outcome = await generate(stub, PROMPT, params=LONG, n=2)
        await house.check()
    assert (outcome.code, "too slow" in outcome.details) == ("RESOURCE_EXHAUSTED", True)


async def test_the_log_says_how_long_a_call_waited_in_the_queue(checkpoint_of, caplog):
    """One sample runs at a time, so one of two calls waits for the end of the other."""
    caplog.set_level(logging.INFO, "treeserve.server.call_log")
    built = build(checkpoint_of, max_running=1)
    async with running(built, request_log=True) as house, connected(house.server) as stub:
        async with house.held.standing() as first_stands:
            calls = [asyncio.create_task(generate(stub, "abc", params=LONG))]
            await first_stands()
            calls += [asyncio.create_task(generate(stub, "xyz", params=LONG))]
            while not await house.loop.look(num_waiting):
                pass
            waits_from = time.monotonic()
            assert await house.loop.look(num_waiting) == 1
            waited = time.monotonic() - waits_from
        assert {outcome.code for outcome in await asyncio.gather(*calls)} == {"OK"}
    first, second = [entry.call for entry in caplog.records if hasattr(entry, "call")]
    assert first["queue_seconds"] == 0
    assert second["queue_seconds"] > waited
    for call in (first, second):
        assert call["queue_seconds"] <= call["first_token_seconds"] <= call["total_seconds"]


def num_waiting(engine) -> int:
    return engine.scheduler.counts().waiting_requests


async def test_what_the_server_refuses_takes_nothing_of_the_engine(checkpoint_of):
    built = build(checkpoint_of)
    load = LoadConfig(max_waiting_tokens=1000)
    async with running(built, load=load) as house, connected(house.server) as stub:
        outcome = await generate(stub, PROMPT, params=LONG, n=3)
        assert outcome.code == "INVALID_ARGUMENT"
        assert (await generate(stub, PROMPT, params=LONG, n=1)).code == "OK"
        await house.check()


@pytest.mark.parametrize(
    ("limits", "request_message", "cause"),
    [
        ({"max_prompt_tokens": 3}, {"text": "abcd"}, "text: has 4 tokens; .* at most 3"),
        ({"max_n": 2}, {"text": "a", "n": 3}, "n: must be between 1 and 2, got 3"),
        (
            {"max_drawn_tokens": 799},
            {"text": "a", "n": 2, "params": LONG},
            r"params.stopping.max_tokens: asks for 800 tokens, .* at most 799",
        ),
        (
            {"max_stop_strings": 1},
            {"text": "a", "params": pb.Parameters(stopping=pb.Stopping(stop=["b", "c"]))},
            "params.stopping.stop: at most 1 strings, got 2",
        ),
    ],
)
async def test_limits_of_a_call_are_the_hosts(checkpoint_of, limits, request_message, cause):
    built = build(checkpoint_of, **limits)
    async with running(built) as house, connected(house.server) as stub:
        outcome = await outcome_of(stub.Generate(pb.GenerateRequest(**request_message)))
        assert (await generate(stub, "abc", params=SHORT)).code == "OK"
    assert outcome.code == "INVALID_ARGUMENT"
    assert re.fullmatch(cause.replace("text:", "(text|prompt):"), outcome.details)


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"max_tree_nodes": 2}, "tree: has more than 2 nodes"),
        ({"max_tree_depth": 1}, "tree: is deeper than 1 levels"),
        ({"max_drawn_tokens": 255}, "tree: asks for 256 tokens"),
    ],
)
async def test_limits_of_a_tree_are_the_hosts(checkpoint_of, limits, cause):
    built = build(checkpoint_of, **limits)
    leaf = pb.TreeNode(text="c")
    tree = pb.TreeNode(text="a", branches=[pb.TreeNode(text="b", n=1, branches=[leaf])])
    async with running(built) as house, connected(house.server) as stub:
        outcome = await outcome_of(stub.GenerateTree(pb.GenerateTreeRequest(tree=tree)))
    assert outcome.code == "INVALID_ARGUMENT"
    assert outcome.details.startswith(cause)


async def test_an_engine_that_cannot_go_on_ends_streams_as_unavailable(
    checkpoint_of, monkeypatch, caplog
):
    built = build(checkpoint_of)
    step = built.engine.step
    steps_left = [5]

    def fail_at_last():
        steps_left[0] -= 1
        if steps_left[0] < 0:
            raise RuntimeError("the books are wrong")
        return step()

    monkeypatch.setattr(built.engine, "step", fail_at_last)
    address = Address("127.0.0.1", 0)
    metrics, watch = Metrics(), EngineWatch()
    server = Server(ServerConfig(grpc_address=address, http_address=address), metrics, watch)
    await server.start()
    signals = serve._Signals(server.reload)
    ending = asyncio.create_task(
        serve._serve_engine(
            server,
            built,
            signals,
            serve._Observers(metrics, watch, None),
            partial(make_backstage, built, {}, BackstageOptions()),
        )
    )
    async with asyncio.timeout(60), connected(server) as stub:
        while (await generate(stub, "", params=LONG)).code == "UNAVAILABLE":
            pass
        outcome = await generate(stub, PROMPT, params=LONG)
        assert outcome.code == "UNAVAILABLE"
        assert await ending == 1
        assert not server.is_alive()
        assert (await generate(stub, "abc")).code == "UNAVAILABLE"
    assert watch.tokens_per_second > 0
    assert "the books are wrong" in caplog.text
    await server.stop()


async def test_a_stream_says_that_the_engine_failed(checkpoint_of, monkeypatch):
    built = build(checkpoint_of)
    loop = EngineLoop(built.engine)

    def fail():
        raise RuntimeError("the books are wrong")

    monkeypatch.setattr(built.engine, "step", fail)
    loop.start()
    stream = TextService(loop, built.prompter).generate("abc", SamplingParams(max_tokens=3))
    with pytest.raises(EngineStopped, match="the engine failed"):
        async for _ in stream:
            pass
    loop.stop()
