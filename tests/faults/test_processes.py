"""Servers that end: drained under load, out of grace, failed, killed, restarted."""

import asyncio
import random
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from faults.engine_that_fails import FATAL
from faults.engine_that_waits import NUM_STREAMS
from faults.served_process import Served, channel_to, connected, served
from faults.spotless import began
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_service import collect, error_of, parameters
from server.listening import Outcome, outcome_of

from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc

pytestmark = pytest.mark.slow

NUM_TOKENS = 300
"""Of a stream that may be cut off."""
FAILING = (str(Path(__file__).parent / "engine_that_fails.py"),)
WAITING = (str(Path(__file__).parent / "engine_that_waits.py"),)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def model(checkpoint_of) -> Path:
    return checkpoint_of("llama")


@pytest.fixture(params=["off", "on"], ids=["overlap-off", "overlap-on"])
def overlap(request) -> tuple[str, ...]:
    return "--overlap", request.param, "--num-pages", "2048", "--calibration", "off"


def request(number: int, max_tokens: int) -> pb.GenerateRequest:
    params = parameters(max_tokens, stopping=pb.Stopping(ignore_eos=True))
    return pb.GenerateRequest(text=f"{number} is asked", params=params)


class Load:
    """Streams that all draw once it is entered, and how they end."""

    def __init__(self, stub, max_tokens: int) -> None:
        self._streams = [stub.Generate(request(k, max_tokens)) for k in range(NUM_STREAMS)]

    async def begin(self) -> list["asyncio.Task[Outcome]"]:
        for stream in self._streams:
            await began(stream)
        return [asyncio.create_task(outcome_of(stream)) for stream in self._streams]


@asynccontextmanager
async def health_of(channel):
    """A function that waits until the server says that it serves, or that it does not."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), wait_for_ready=True
    )

    async def until(status) -> None:
        while (await watch.read()).status != status:
            pass

    yield until
    watch.cancel()


@dataclass(frozen=True)
class UnderLoad:
    """A server whose streams are in mid-course, and stay there."""

    server: Served
    stub: generation_pb2_grpc.GenerationServiceStub
    until: Callable[[int], Awaitable[None]]
    tasks: list["asyncio.Task[Outcome]"]


@asynccontextmanager
async def under_load(model, *options: str) -> AsyncIterator[UnderLoad]:
    async with (
        served(model, *options, program=WAITING) as server,
        channel_to(server) as channel,
        health_of(channel) as until,
    ):
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        yield UnderLoad(server, stub, until, await Load(stub, NUM_TOKENS).begin())


async def test_a_drain_under_load_ends_every_stream_well_and_takes_no_new_call(model, overlap):
    async with under_load(model, *overlap, "--drain-grace", "120") as house:
        house.server.signal(signal.SIGTERM)
        await house.until(NOT_SERVING)
        refused = await outcome_of(house.stub.Generate(request(0, 1)))
        house.server.signal(signal.SIGUSR1)
        codes = {outcome.code for outcome in await asyncio.gather(*house.tasks)}
        status, said = await house.server.end()
    assert (refused.code, refused.details) == ("UNAVAILABLE", "the server is draining")
    assert codes == {"OK"}
    assert (status, said) == (0, "")


@pytest.mark.parametrize("end", ["a second signal", "the grace has passed"])
async def test_what_a_drain_does_not_wait_for_is_unavailable_and_the_exit_is_clean(model, end):
    grace = "120" if end == "a second signal" else "0.01"
    options = "--num-pages", "2048", "--drain-grace", grace
    async with under_load(model, *options) as house:
        house.server.signal(signal.SIGTERM)
        if end == "a second signal":
            await house.until(NOT_SERVING)
            house.server.signal(signal.SIGTERM)
        codes = {outcome.code for outcome in await asyncio.gather(*house.tasks)}
        status, said = await house.server.end()
    assert codes == {"UNAVAILABLE"}
    assert (status, said) == (0, "")


async def test_an_engine_that_cannot_go_on_says_so_through_health_and_exits_with_1(model, overlap):
    fatal = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, FATAL]), params=parameters(3))
    async with served(model, *overlap, program=FAILING) as server, connected(server) as stub:
        async with channel_to(server) as channel, health_of(channel) as until:
            await until(SERVING)
            tasks = await Load(stub, NUM_TOKENS).begin()
            error = await error_of(stub.Generate(fatal))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            await until(NOT_SERVING)
            codes = {outcome.code for outcome in await asyncio.gather(*tasks)}
        status, said = await server.end()
    assert codes == {"UNAVAILABLE"}
    assert status == 1
    assert "the books are wrong" in said
    assert "the engine cannot go on, and the server ends" in said


def lasting_port() -> int:
    """One that stays free: who asks for any is given a higher one, and this is bound twice."""
    for port in random.sample(range(10_000, 30_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("all ports are taken")


async def until_served(channel, asked: pb.GenerateRequest) -> list[int]:
    """The tokens of a caller that, when cut off, asks again as soon as the server is well."""
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    was_refused = False
    while True:
        try:
            if was_refused:
                async with health_of(channel) as until:
                    # One that loads its model is reached and serves nobody.
                    await until(SERVING)
            return (await collect(stub.Generate(asked, wait_for_ready=True))).tokens()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            was_refused = True


async def test_callers_of_a_server_that_is_killed_and_restarted_are_served_the_same(model):
    """Streams are cut off and, sent again, draw what they would have drawn."""
    port = lasting_port()
    options = "--num-pages", "2048"

    def asked(number: int) -> "asyncio.Task[list[int]]":
        return asyncio.create_task(until_served(channel, request(number, NUM_TOKENS)))

    async with served(model, *options, port=port) as first, channel_to(first) as channel:
        alone = await asked(3)
        tasks = [asked(number) for number in range(NUM_STREAMS)]
        # It comes last and has drawn, so the others have begun; it is far from its end.
        last = generation_pb2_grpc.GenerationServiceStub(channel).Generate(request(99, 900))
        await began(last)
        first.signal(signal.SIGKILL)
        assert (await first.end())[0] == -signal.SIGKILL
        assert (await outcome_of(last)).code == "UNAVAILABLE"
        asked_while_down = asked(3)
        async with served(model, *options, port=port) as second:
            answers = await asyncio.gather(*tasks, asked_while_down)
            await ends_well(second)
    assert [len(tokens) for tokens in answers] == [NUM_TOKENS] * (NUM_STREAMS + 1)
    assert answers[3] == answers[-1] == alone


async def ends_well(server: Served) -> None:
    server.signal(signal.SIGTERM)
    assert await server.end() == (0, "")
