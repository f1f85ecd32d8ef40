"""Servers that end: drained under load, out of grace, failed, killed, restarted."""

import asyncio
import signal
import socket
from pathlib import Path

import grpc
import pytest
from faults.engine_that_fails import FATAL
from faults.served_process import Served, connected, served
from faults.spotless import began
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_service import collect, error_of, parameters
from server.listening import Outcome, outcome_of

from treeserve.pb import generation_pb2 as pb

pytestmark = pytest.mark.slow

NUM_STREAMS = 12
NUM_TOKENS = 300
"""Of a stream that is cut off: so many that it never ends before."""
FAILING = str(Path(__file__).parent / "engine_that_fails.py")
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


async def is_draining(stub) -> None:
    """New calls are refused, over a connection that has running ones."""
    while (await outcome_of(stub.Generate(request(0, 1)))).code == "OK":
        pass


async def test_a_drain_under_load_ends_every_stream_well_and_takes_no_new_call(model, overlap):
    async with served(model, *overlap, "--drain-grace", "120") as server, connected(server) as stub:
        tasks = await Load(stub, 400).begin()
        server.signal(signal.SIGTERM)
        await is_draining(stub)
        refused = await outcome_of(stub.Generate(request(0, 1)))
        codes = {outcome.code for outcome in await asyncio.gather(*tasks)}
        status, said = await server.end()
    assert (refused.code, refused.details) == ("UNAVAILABLE", "the server is draining")
    assert codes == {"OK"}
    assert (status, said) == (0, "")


@pytest.mark.parametrize("end", ["a second signal", "the grace has passed"])
async def test_what_a_drain_does_not_wait_for_is_unavailable_and_the_exit_is_clean(model, end):
    grace = "120" if end == "a second signal" else "0.01"
    options = "--num-pages", "2048", "--drain-grace", grace
    async with served(model, *options) as server, connected(server) as stub:
        tasks = await Load(stub, 900).begin()
        server.signal(signal.SIGTERM)
        if end == "a second signal":
            await is_draining(stub)
            server.signal(signal.SIGTERM)
        codes = {outcome.code for outcome in await asyncio.gather(*tasks)}
        status, said = await server.end()
    assert codes == {"UNAVAILABLE"}
    assert (status, said) == (0, "")


async def test_an_engine_that_cannot_go_on_says_so_through_health_and_exits_with_1(model, overlap):
    fatal = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, FATAL]), params=parameters(3))
    program = (FAILING,)
    async with served(model, *overlap, program=program) as server, connected(server) as stub:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            tasks = await Load(stub, 900).begin()
            error = await error_of(stub.Generate(fatal))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert (await watch.read()).status == NOT_SERVING
            codes = {outcome.code for outcome in await asyncio.gather(*tasks)}
        status, said = await server.end()
    assert codes == {"UNAVAILABLE"}
    assert status == 1
    assert "the books are wrong" in said
    assert "the engine cannot go on, and the server ends" in said


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


async def until_served(stub, asked: pb.GenerateRequest) -> tuple[list[int], int]:
    """(tokens, failed tries) of a caller that tries again whenever the server is unavailable."""
    for num_failed in range(1000):
        try:
            return (await collect(stub.Generate(asked, wait_for_ready=True))).tokens(), num_failed
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    raise AssertionError("never served")


async def test_callers_of_a_server_that_is_killed_and_restarted_are_served_the_same(model):
    """Each stream is cut off once and, sent again, draws what it would have drawn."""
    port = free_port()
    options = "--num-pages", "2048"
    async with served(model, *options, port=port) as first, connected(first) as stub:
        alone, _ = await until_served(stub, request(3, NUM_TOKENS))
        tasks = [asyncio.create_task(until_served(stub, request(k, NUM_TOKENS))) for k in range(12)]
        await is_drawing(stub)
        first.signal(signal.SIGKILL)
        assert (await first.end())[0] == -signal.SIGKILL
        asked_while_down = asyncio.create_task(until_served(stub, request(3, NUM_TOKENS)))
        async with served(model, *options, port=port) as second:
            answers = await asyncio.gather(*tasks, asked_while_down)
            await ends_well(second)
    assert [len(tokens) for tokens, _ in answers] == [NUM_TOKENS] * 13
    assert answers[3][0] == answers[-1][0] == alone
    assert max(failed for _, failed in answers) >= 1


async def is_drawing(stub) -> None:
    """A stream that came later has drawn, so those before have begun."""
    stream = stub.Generate(request(99, 2))
    await began(stream)
    stream.cancel()


async def ends_well(server: Served) -> None:
    server.signal(signal.SIGTERM)
    assert await server.end() == (0, "")
