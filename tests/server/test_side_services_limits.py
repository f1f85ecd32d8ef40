"""Limits and log lines of prefix calls: those that generation calls have, over a real socket."""

import asyncio
import json
import logging
import threading
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from server.side_house import PAGE, error_of, prefix, running_house

from treeserve.config import EngineOptions, RequestLimits
from treeserve.pb import generation_pb2
from treeserve.pb import prefix_pb2 as pb
from treeserve.server.config import LoadConfig
from treeserve.server.log_format import JsonFormatter

CODE = grpc.StatusCode
TEXT = "Twenty-four characters. "
CALLS = ("Warm", "Retain", "Save", "Restore")


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options, tmp_path):
    async with running_house(options, tmp_path) as running:
        yield running


def call_of(house, method: str, metadata=None, text: str = TEXT):
    """A prefix call of one of the four kinds; "n" is what is restored."""
    requests = {
        "Warm": pb.WarmRequest(prefix=prefix(text)),
        "Retain": pb.RetainRequest(prefix=prefix(text)),
        "Save": pb.SaveRequest(name="n", prefix=prefix(text), overwrite=True),
        "Restore": pb.RestoreRequest(name="n"),
    }
    return getattr(house.prefix, method)(requests[method], metadata=metadata)


def retry_seconds(error: grpc.aio.AioRpcError) -> float | None:
    for detail in rpc_status.from_call(error).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToMilliseconds() / 1000
    return None


@asynccontextmanager
async def busy(house):
    """The engine does nothing until it ends; gives an event that the next request for it sets."""
    blocked, go_on = threading.Event(), threading.Event()
    arrived, submit = asyncio.Event(), house.loop.submit

    async def submit_and_tell(requests):
        arrived.set()
        return await submit(requests)

    def block(engine) -> None:
        blocked.set()
        go_on.wait(120)

    blocking = asyncio.ensure_future(house.loop.call(block))
    await asyncio.to_thread(blocked.wait, 60)
    house.loop.submit = submit_and_tell
    try:
        yield arrived
    finally:
        house.loop.submit = submit
        go_on.set()
        await blocking


@pytest.mark.parametrize("method", ["Warm", "Save", "Restore"])
async def test_a_prefix_counts_its_tokens_among_those_that_a_key_may_have(house, method):
    await call_of(house, "Save")
    await house.loop.call(lambda engine: engine.scheduler.clear_cache())
    small = house.new_key(max_tokens=len(TEXT) - 1)
    error = await error_of(call_of(house, method, small))
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert error.details().startswith(f"max_tokens: this API key may have {len(TEXT) - 1} tokens")
    assert house.scheduler.counts().used_pages == 0, "nothing was computed or restored"
    enough = house.new_key(max_tokens=len(TEXT))
    for _ in range(3):
        await call_of(house, method, enough)
    await house.check()


async def test_tokens_in_flight_of_generation_and_of_prefixes_are_one_sum(house):
    key = house.new_key(max_tokens=100)
    stopping = generation_pb2.Stopping(max_tokens=60, ignore_eos=True)
    params = generation_pb2.Parameters(stopping=stopping)
    async with busy(house) as arrived:
        request = generation_pb2.GenerateRequest(text=TEXT, params=params)
        drawing = house.generation.Generate(request, metadata=key)
        reading = asyncio.ensure_future(drawing.read())
        await asyncio.wait_for(arrived.wait(), 60)
        error = await error_of(call_of(house, "Warm", key))
        assert "may have 100 tokens in flight, has 84, and asks for 24 more" in error.details()
    await reading
    drawing.cancel()
    await house.check()


@pytest.mark.parametrize("method", CALLS)
async def test_a_key_with_all_its_calls_in_flight_is_refused(house, method):
    await call_of(house, "Save")
    key = house.new_key(max_requests=1)
    async with busy(house) as arrived:
        first = asyncio.ensure_future(call_of(house, "Warm", key))
        await asyncio.wait_for(arrived.wait(), 60)
        error = await error_of(call_of(house, method, key))
        assert error.code() is CODE.RESOURCE_EXHAUSTED
        assert error.details().startswith("max_requests: 1 calls of this API key run")
    await first
    await call_of(house, method, key)
    await house.check()


@pytest.mark.parametrize("method", CALLS)
async def test_a_key_that_calls_too_often_is_told_when_to_come_again(house, method):
    await call_of(house, "Save")
    key = house.new_key(requests_per_minute=1)
    await call_of(house, method, key)
    error = await error_of(call_of(house, method, key))
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert error.details().startswith("requests_per_minute: ")
    assert 0 < retry_seconds(error) <= 60
    await house.check()


@pytest.mark.parametrize("method", ["Warm", "Save"])
async def test_prefixes_wait_where_prompts_wait(options, tmp_path, method):
    load = LoadConfig(max_waiting_tokens=len(TEXT))
    async with running_house(options, tmp_path, load=load) as house:
        error = await error_of(call_of(house, method, text=TEXT + "x"))
        assert error.code() is CODE.INVALID_ARGUMENT
        assert error.details().startswith(f"request: has {len(TEXT) + 1} tokens")
        async with busy(house) as arrived:
            first = asyncio.ensure_future(call_of(house, "Warm"))
            await asyncio.wait_for(arrived.wait(), 60)
            error = await error_of(call_of(house, method))
            assert error.code() is CODE.RESOURCE_EXHAUSTED
            assert retry_seconds(error) >= 1
        await first
        await call_of(house, method)
        await house.check()


@pytest.mark.parametrize("method", CALLS)
async def test_prefix_calls_are_among_the_calls_that_run_at_once(options, tmp_path, method):
    async with running_house(options, tmp_path, load=LoadConfig(max_calls=1)) as house:
        async with busy(house) as arrived:
            first = asyncio.ensure_future(call_of(house, "Warm"))
            await asyncio.wait_for(arrived.wait(), 60)
            error = await error_of(call_of(house, method))
            assert error.code() is CODE.RESOURCE_EXHAUSTED
            assert error.details().startswith("1 calls are running")
        await first
        await house.check()


async def test_a_prefix_longer_than_the_host_allows_is_named(options):
    limited = replace(options, limits=RequestLimits(max_prompt_tokens=10))
    async with running_house(limited) as house:
        error = await error_of(call_of(house, "Warm"))
        assert error.code() is CODE.INVALID_ARGUMENT
        assert error.details().startswith(f"prefix: has {len(TEXT)} tokens")


@pytest.fixture
def lines(caplog):
    """A function that gives the lines so far, as the server writes them."""
    caplog.set_level(logging.INFO, "treeserve.server.call_log")

    def read() -> list[dict[str, object]]:
        own = [entry for entry in caplog.records if entry.name == "treeserve.server.call_log"]
        return [json.loads(JsonFormatter().format(entry)) for entry in own]

    return read


async def test_every_prefix_call_leaves_a_line_with_its_tokens(options, tmp_path, lines):
    async with running_house(options, tmp_path, request_log=True) as house:
        for method in ("Warm", "Warm", "Retain", "Save", "Restore"):
            await call_of(house, method)
        await error_of(call_of(house, "Warm", house.new_key(permissions="generate")))
        await house.prefix.ListSaved(pb.ListSavedRequest())
    names = ("method", "code", "tenant", "prompt_tokens", "cached_tokens", "computed_tokens")
    tokens = len(TEXT)
    assert [tuple(line[name] for name in names) for line in lines()] == [
        ("Warm", "OK", "home", tokens, 0, tokens),
        ("Warm", "OK", "home", tokens, tokens, 0),
        ("Retain", "OK", "home", 0, 0, 0),
        ("Save", "OK", "home", tokens, 0, 0),
        ("Restore", "OK", "home", tokens, 0, 0),
        ("Warm", "PERMISSION_DENIED", "home", 0, 0, 0),
        ("ListSaved", "OK", "home", 0, 0, 0),
    ]
    assert all(len(line["request_id"]) == 32 for line in lines())


@pytest.mark.parametrize("log_prompts", [False, True])
async def test_a_prefix_is_in_the_log_only_where_prompts_are(
    options, tmp_path, lines, caplog, log_prompts
):
    given = {"request_log": True, "log_prompts": log_prompts}
    async with running_house(options, tmp_path, **given) as house:
        for method in CALLS[:3]:
            await call_of(house, method)
    assert [line.get("prompt") for line in lines()] == [TEXT if log_prompts else None] * 3
    assert (TEXT in caplog.text) is log_prompts
