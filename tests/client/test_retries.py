"""Calls that are made again: against a server that restarts, is full, loads or is lost for good."""

import asyncio
import threading
from contextlib import aclosing, asynccontextmanager

import pytest
from server.conftest import ScriptedTextService
from server.listening import LOOPBACK, listening

from treeserve.client import AsyncClient, Client, RemoteError, Retries
from treeserve.client.retries import Attempts
from treeserve.errors import ConfigError, InvalidRequest
from treeserve.metrics import Metrics
from treeserve.server.app import Server
from treeserve.server.config import Address, LoadConfig, ServerConfig
from treeserve.types import Delta, Finished, OutputOptions, SamplingParams, Started

PATIENT = Retries(max_attempts=1_000_000, first_delay_seconds=0.01, max_delay_seconds=0.05)
"""As long as the test runs, however slowly a server starts."""
SEEDED = SamplingParams(seed=1)
UNAVAILABLE = RemoteError("UNAVAILABLE", "gone")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempts(retries: Retries = PATIENT, timeout_seconds=None, *, chance=0.5, **more) -> Attempts:
    clock = more.pop("clock", Clock())
    return Attempts(retries, timeout_seconds, clock=clock, chance=lambda: chance, **more)


def delay(tried: Attempts, error=UNAVAILABLE, *, has_begun=False, is_told=False) -> float | None:
    return tried.delay_after(error, has_begun=has_begun, is_told=is_told)


def test_delays_double_up_to_the_most_with_jitter():
    retries = Retries(max_attempts=9, first_delay_seconds=1, max_delay_seconds=5)
    longest, shortest = attempts(retries, chance=1.0), attempts(retries, chance=0.0)
    assert [delay(longest) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert [delay(shortest) for _ in range(5)] == [0.5, 1, 2, 2.5, 2.5]


def test_the_server_s_own_word_is_waited_for_in_full():
    full = RemoteError("RESOURCE_EXHAUSTED", "full", 7.0)
    assert delay(attempts(chance=0.0), full) == 7.0
    assert delay(attempts(chance=1.0), full) == pytest.approx(7.7)
    assert delay(attempts(), RemoteError("RESOURCE_EXHAUSTED", "the reader is too slow")) is None


def test_the_attempts_are_counted():
    tried = attempts(Retries(max_attempts=3))
    assert [delay(tried) is None for _ in range(3)] == [False, False, True]
    assert delay(attempts(Retries(max_attempts=1))) is None


def test_nobody_waits_for_an_attempt_that_the_timeout_forbids():
    clock = Clock()
    retries = Retries(first_delay_seconds=2, max_delay_seconds=2)
    tried = attempts(retries, 3, chance=1.0, clock=clock)
    assert tried.seconds_left() == 3
    assert delay(tried) == 2
    clock.now = 2
    assert tried.seconds_left() == 1
    assert delay(tried) is None
    clock.now = 9
    assert tried.seconds_left() == 0


@pytest.mark.parametrize("code", ["INTERNAL", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_what_would_fail_again_is_not_tried_again(code):
    assert delay(attempts(), RemoteError(code, "no")) is None


def test_what_was_told_is_never_told_twice():
    exact = {"repeats_exactly": True}
    assert delay(attempts(**exact), has_begun=True, is_told=True) is None
    assert delay(attempts(**exact), has_begun=True) is not None
    assert delay(attempts(), has_begun=True) is None


def test_a_call_that_may_have_been_carried_out_is_only_repeated_where_that_is_harmless():
    assert delay(attempts(repeats_lost=False)) is None
    refused = RemoteError("RESOURCE_EXHAUSTED", "full", 1.0)
    assert delay(attempts(repeats_lost=False), refused) is not None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"first_delay_seconds": 0}, "first_delay_seconds"),
        ({"first_delay_seconds": 9}, "max_delay_seconds"),
        ({"max_delay_seconds": float("inf")}, "max_delay_seconds"),
    ],
)
def test_numbers_out_of_range_are_named(options, name):
    with pytest.raises(ConfigError, match=f"^{name}: must be "):
        Retries(**options)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
async def test_a_timeout_that_is_none_is_named(timeout):
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match=r"^timeout_seconds: must be above 0, got "):
            await client.tokenize("p", timeout_seconds=timeout)
    words = r"^timeout_seconds: must be above 0, got "
    blocking = Client("127.0.0.1:1", timeout_seconds=timeout)
    with blocking, pytest.raises(InvalidRequest, match=words):
        next(blocking.generate("p"))


class Texts(ScriptedTextService):
    """Every prompt begins as a real server's does."""

    async def _stream(self, prompt, paths, n):
        for path in paths:
            yield Started(path, "r", 1, 6, OutputOptions())
        async for item in super()._stream(prompt, paths, n):
            yield item


@pytest.fixture
def address(kept_port) -> Address:
    """Of one server after another."""
    return Address("127.0.0.1", kept_port)


@asynccontextmanager
async def second_server(address, text_service):
    """Another server at the same address."""
    server = Server(ServerConfig(grpc_address=address, http_address=LOOPBACK), Metrics())
    await server.start()
    await server.set_ready(text_service)
    try:
        yield server
    finally:
        await server.stop()


def text_of(completions) -> str:
    [completion] = completions
    [sample] = completion.samples
    return sample.text


async def until_begun(*streams) -> None:
    """Every one has got its first message."""
    while not all(stream.started for stream in streams):
        await asyncio.sleep(0)


async def test_a_seeded_call_survives_a_restart_in_the_middle_of_it(address):
    """Nobody has seen the first half, and the second server draws the same."""
    first, second = Texts(), Texts()
    async with listening(first, grpc_address=address):
        client = AsyncClient(str(address), retries=PATIENT)
        blocking = Client(str(address), retries=PATIENT)
        streams = client.generate("wait", SEEDED), blocking.generate("wait", SEEDED)
        calls = [
            asyncio.ensure_future(streams[0].collect()),
            asyncio.ensure_future(asyncio.to_thread(streams[1].collect)),
        ]
        await until_begun(*streams)
    second.release.set()
    async with second_server(address, second):
        assert [text_of(await call) for call in calls] == ["ab", "ab"]
        blocking.close()
        await client.close()
    assert len(second.seen) == 2


async def test_a_call_without_a_seed_is_not_repeated_once_it_has_begun(address):
    second = Texts()
    async with listening(Texts(), grpc_address=address):
        client = AsyncClient(str(address), retries=PATIENT)
        unseeded = client.generate("wait")
        collecting = asyncio.ensure_future(unseeded.collect())
        told = client.generate("wait", SEEDED)
        assert isinstance(await anext(told), Delta)
        await until_begun(unseeded)
    async with second_server(address, second):
        with pytest.raises(RemoteError, match="UNAVAILABLE"):
            await collecting
        with pytest.raises(RemoteError, match="UNAVAILABLE"):
            await anext(told)
        await client.close()
    assert second.seen == []


async def test_a_stream_waits_for_a_server_that_comes_back(address):
    """It was gone before the first message: that is safe for any call."""
    async with listening(Texts(), grpc_address=address):
        client = AsyncClient(str(address), retries=PATIENT)
        assert text_of(await client.generate("p").collect()) == "ab"
    stream = asyncio.ensure_future(anext(client.generate("p")))
    blocking = Client(str(address), retries=PATIENT)
    unary = asyncio.ensure_future(asyncio.to_thread(next, blocking.generate("p")))
    await asyncio.wait([stream, unary], timeout=0.05)
    assert not stream.done()
    async with second_server(address, Texts()):
        assert isinstance(await stream, Delta)
        assert isinstance(await unary, Delta)
        await client.close()
        blocking.close()


async def test_a_full_server_is_asked_again_when_it_said(monkeypatch):
    texts = Texts()
    async with listening(texts, load=LoadConfig(max_calls=1)) as server:
        address = str(server.grpc_address)
        async with AsyncClient(address) as client, AsyncClient(address, retries=None) as once:
            async with aclosing(client.generate("wait")) as running:
                await anext(running)
                with pytest.raises(RemoteError) as caught:
                    await once.generate("p").collect()
                assert caught.value.code == "RESOURCE_EXHAUSTED"
                assert caught.value.retry_seconds >= 1
                slept = asyncio.Event()
                waits = []

                async def sleep(seconds):
                    waits.append(seconds)
                    slept.set()
                    await running_ended.wait()
                    while server.num_calls:
                        await asyncio.sleep(0)

                running_ended = asyncio.Event()
                monkeypatch.setattr("treeserve.client.async_stream._pause", sleep)
                second = asyncio.ensure_future(client.generate("p").collect())
                await slept.wait()
                texts.release.set()
                assert isinstance([item async for item in running][-1], Finished)
                running_ended.set()
            assert text_of(await second) == "ab"
            [waited] = waits
            assert caught.value.retry_seconds <= waited <= 1.1 * caught.value.retry_seconds


async def test_the_timeout_bounds_all_attempts_together(nobody):
    """Nobody is there, and there are attempts enough for ever."""
    for retries in (PATIENT, None):
        async with AsyncClient(nobody, retries=retries) as client:
            with pytest.raises(RemoteError) as caught:
                await client.tokenize("p", timeout_seconds=0.2)
        assert caught.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")

    def blocking():
        with Client(nobody, retries=PATIENT, timeout_seconds=0.2) as client:
            client.generate("p").collect()

    with pytest.raises(RemoteError):
        await asyncio.to_thread(blocking)


async def test_the_timeout_ends_a_call_that_runs():
    async with listening(Texts()) as server:
        async with AsyncClient(str(server.grpc_address), timeout_seconds=0.1) as client:
            with pytest.raises(RemoteError) as caught:
                await client.generate("wait").collect()
            assert caught.value.code == "DEADLINE_EXCEEDED"
            assert text_of(await client.generate("p", timeout_seconds=60).collect()) == "ab"

        def blocking():
            with Client(str(server.grpc_address)) as client:
                client.generate("wait", timeout_seconds=0.1).collect()

        with pytest.raises(RemoteError) as caught:
            await asyncio.to_thread(blocking)
        assert caught.value.code == "DEADLINE_EXCEEDED"


def test_closing_the_client_ends_its_waiting(nobody):
    slow = Retries(max_attempts=9, first_delay_seconds=3600, max_delay_seconds=3600)
    client = Client(nobody, retries=slow)
    ended = []

    def call():
        try:
            client.tokenize("p")
        except RemoteError as error:
            ended.append(error.code)

    thread = threading.Thread(target=call)
    thread.start()
    client.close()
    thread.join(60)
    assert ended in (["UNAVAILABLE"], ["CANCELLED"])
    with pytest.raises(RemoteError, match="CANCELLED: the client is closed"):
        client.tokenize("p")


async def test_a_closed_client_says_so(nobody):
    client = AsyncClient(nobody)
    await client.close()
    with pytest.raises(RemoteError, match="CANCELLED: the client is closed"):
        await client.tokenize("p")
