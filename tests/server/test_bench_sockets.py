"""The benchmark's client over a real socket: answers that do not add up are found."""

import time

import pytest
from server.listening import listening

from treeserve.bench.serve.http_sockets import http_connected
from treeserve.bench.serve.load import Window, closed_loop
from treeserve.bench.serve.sockets import Meter, connected
from treeserve.bench.serve.workloads import Call
from treeserve.types import PromptTree, SamplingParams


def one(text: str, n: int, max_tokens: int) -> Call:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=1)
    return Call(PromptTree(text, n=n, params=params), n, max_tokens)


@pytest.fixture(params=["grpc", "http"])
def door(request) -> str:
    return request.param


def through(door: str, server):
    if door == "http":
        return http_connected(str(server.http_address), 60)
    return connected(str(server.grpc_address), 60)


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (one("p", 2, 2), "ended with FINISH_REASON_STOP, not with FINISH_REASON_LENGTH"),
        (one("length", 2, 3), "has 2 tokens, asked for 3"),
        (one("length", 1, 2), "usage says 4 tokens, 2 came"),
        (one("length", 2, 2), ""),
    ],
)
async def test_what_does_not_add_up_is_wrong(text_service, door, call, wrong):
    """The scripted service draws two tokens for each sample, and always says that it drew four."""
    async with (
        listening(text_service) as server,
        through(door, server) as caller,
    ):
        start = time.perf_counter()
        meter = Meter(start, start + 600)
        record = await caller.make(caller.request(call), start, meter)
    assert record.status == "OK"
    assert wrong in record.wrong
    assert record.is_good == (not wrong)
    assert meter.tokens == 2 * call.num_samples
    assert record.end >= record.sent >= start


async def test_what_was_asked_for_arrives_at_the_server(text_service, door):
    async with (
        listening(text_service) as server,
        through(door, server) as caller,
    ):
        call = one("hello", 3, 7)
        await caller.make(caller.request(call), 0.0, Meter(0.0, 1.0))
        params = SamplingParams(max_tokens=5, ignore_eos=True, seed=2)
        tree = PromptTree("t", (PromptTree("a", n=2), PromptTree("b", n=1)), params=params)
        await caller.make(caller.request(Call(tree, 3, 5)), 0.0, Meter(0.0, 1.0))
    (prompt, given), (seen, _) = text_service.seen
    assert (prompt, given.n, given.max_tokens, given.ignore_eos, given.seed) == (
        "hello", 3, 7, True, 1,
    )  # fmt: skip
    assert (seen.text, seen.params.max_tokens, seen.params.seed) == ("t", 5, 2)
    assert [(branch.text, branch.n) for branch in seen.branches] == [("a", 2), ("b", 1)]


async def test_a_call_that_fails_ends_its_stream_and_says_why(text_service, door):
    async with (
        listening(text_service) as server,
        through(door, server) as caller,
    ):
        request = caller.request(one("invalid text", 1, 1))
        load = await closed_loop(caller, lambda index: request, 2, Window(0.0, 0.05))
    assert [record.status for record in load.records] == ["INVALID_ARGUMENT"] * 2
    assert len(text_service.seen) == 2
    assert load.gone == ""


async def test_a_connection_that_the_server_has_closed_is_not_used_again(text_service):
    call = one("length", 2, 2)
    async with listening(text_service) as server:
        address = str(server.http_address)
        async with http_connected(address, 60) as caller:
            assert (await caller.make(caller.request(call), 0.0, Meter(0.0, 1.0))).is_good
            [idle] = caller._idle
            await server.stop()
            assert await idle._reader.read() == b""
            record = await caller.make(caller.request(call), 0.0, Meter(0.0, 1.0))
    assert record.status == "UNAVAILABLE"
    assert idle not in caller._idle
    assert "refused" in record.details or "Connect call failed" in record.details
