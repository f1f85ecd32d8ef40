"""A caller that goes takes its work along, however it goes."""

import asyncio
import json
import random
import resource

import openai
import pytest
from running_service import running_service
from server.http_door.live import MODEL

from treeserve.config import EngineOptions

LONG = {"model": MODEL, "prompt": "Once", "max_tokens": 900, "ignore_eos": True, "n": 2}


@pytest.fixture
async def service(chat_checkpoint):
    options = EngineOptions(model=str(chat_checkpoint), num_pages=512, page_size=16)
    async with running_service(options) as running:
        yield running


async def send(service, body: dict) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = service.server.http_address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_caller_that_goes_ends_its_samples_within_a_step(service, is_streamed):
    async with service.held.standing() as stands:
        _, writer = await send(service, {**LONG, "stream": is_streamed})
        await stands()
        writer.transport.abort()
        async with asyncio.timeout(60):
            while service.server.num_calls:
                await asyncio.sleep(0)
        # Its end is in the loop's inbox, which is carried out before the next step.
        counts = await service.loop.look(lambda engine: engine.scheduler.counts())
        assert counts.running_samples == 0
    await service.assert_nothing_is_held()


async def test_a_caller_that_goes_before_its_body_is_whole_holds_nothing(service):
    address = service.server.http_address
    _, writer = await asyncio.open_connection(address.host, address.port)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    writer.write(head + b"Content-Type: application/json\r\n\r\n{")
    await writer.drain()
    async with asyncio.timeout(60):
        while not service.server.num_calls:
            await asyncio.sleep(0)
        writer.transport.abort()
        while service.server.num_calls:
            await asyncio.sleep(0)
    await service.assert_nothing_is_held()


async def test_a_client_that_times_out_ends_its_samples(service, monkeypatch):
    url = f"http://{service.server.http_address}/v1"
    endings, has_ended = service.server._endings, asyncio.Event()
    tell = endings.tell

    def tell_and_note(*call) -> None:
        tell(*call)
        has_ended.set()

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        # On a connection that is open the request is sent in time, however late it is read.
        await client.models.list()
        monkeypatch.setattr(endings, "tell", tell_and_note)
        call = asyncio.create_task(
            client.completions.create(
                model=MODEL,
                prompt="Once",
                max_tokens=900,
                timeout=0.5,
                extra_body={"ignore_eos": True, "n": 64},
            )
        )
        with pytest.raises(openai.APITimeoutError):
            await call
        await asyncio.wait_for(has_ended.wait(), 60)
    await service.assert_nothing_is_held()


async def test_a_deadline_ends_the_work_and_says_so(service):
    url = f"http://{service.server.http_address}/v1"
    headers = {"x-request-timeout": "0.3"}
    asked = {
        "model": MODEL,
        "prompt": "Once",
        "max_tokens": 900,
        "n": 64,
        "extra_body": {"ignore_eos": True},
        "extra_headers": headers,
    }
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="the deadline passed") as caught:
            await client.completions.create(**asked)
        assert caught.value.status_code == 504
        stream = await client.completions.create(**asked, stream=True)
        reasons = set()

        async def read() -> None:
            async for chunk in stream:
                reasons.update(choice.finish_reason for choice in chunk.choices)

        with pytest.raises(openai.APIError, match="the deadline passed"):
            await read()
        assert "deadline" in reasons
    await service.assert_nothing_is_held()


@pytest.mark.slow
async def test_five_hundred_streams_of_which_many_are_left(service):
    """Each ends whole or is left after some bytes; nothing of any is held in the end."""
    draw = random.Random(0)
    # Both ends of every socket are in this process.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = asyncio.Semaphore(500 if most >= 2048 else 200)
    whole = 0

    async def call(number: int) -> None:
        nonlocal whole
        body = {
            "model": MODEL,
            "prompt": f"Once upon a time {number}",
            "stream": True,
            "max_tokens": 12,
            "seed": number,
            "n": 1 + number % 2,
        }
        leaves_after = draw.choice([None, 0, 1, 200, 600])
        async with room:
            reader, writer = await send(service, body)
            if leaves_after is None:
                while (line := await reader.readline()) and line != b"data: [DONE]\n":
                    assert b'"error"' not in line
                assert line
                whole += 1
            else:
                await reader.read(leaves_after)
            writer.transport.abort()

    async with asyncio.TaskGroup() as group:
        for number in range(500):
            group.create_task(call(number))
    assert whole > 50
    await service.assert_nothing_is_held()
