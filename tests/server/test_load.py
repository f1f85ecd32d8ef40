"""What is too much, and what becomes of it, over real sockets."""

import asyncio

import grpc
import pytest
from server.listening import connected, generate, listening, outcome_of

from treeserve.errors import InvalidRequest
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc
from treeserve.request_size import RequestSize
from treeserve.server.config import LoadConfig
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.refusals import Overloaded
from treeserve.server.waiting import WaitingRoom
from treeserve.types import (
    StepNumbers,
)

PACE = StepNumbers(
    running_samples=1,
    waiting_requests=0,
    used_pages=1,
    cached_pages=0,
    total_pages=9,
    evicted_tokens=0,
    num_rows=20,
    schedule_seconds=0.5,
    model_seconds=1.5,
)
"""Ten rows a second."""


def size_of(*tokens: int) -> RequestSize:
    return RequestSize(tuple(((index,), count) for index, count in enumerate(tokens)))


async def test_no_more_prompts_wait_than_there_is_room_for(text_service):
    load = LoadConfig(max_waiting_requests=1)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        waiting = asyncio.create_task(generate(stub, "queue"))
        await text_service.waiting.wait()
        refused = await generate(stub)
        text_service.release.set()
        assert (await waiting).code == "OK"
        assert (await generate(stub)).code == "OK"
    assert refused.code == "RESOURCE_EXHAUSTED"
    assert refused.details == "1 prompts wait and 1 more came; 1 may wait"
    assert refused.retry_seconds == 1


async def test_what_draws_waits_no_more(text_service):
    load = LoadConfig(max_waiting_requests=1)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        drawing = asyncio.create_task(generate(stub, "wait"))
        await text_service.waiting.wait()
        assert (await generate(stub)).code == "OK"
        text_service.release.set()
        assert (await drawing).code == "OK"


async def test_when_to_try_again_follows_from_the_queue_and_the_pace(text_service):
    """ "queue" has 5 tokens and 95 to draw: at ten tokens a second, that takes ten seconds."""
    load = LoadConfig(max_waiting_tokens=150)
    watch = EngineWatch()
    watch.observe(PACE)
    params = pb.Parameters(stopping=pb.Stopping(max_tokens=95))
    async with listening(text_service, watch, load=load) as server, connected(server) as stub:
        waiting = asyncio.create_task(generate(stub, "queue", params=params))
        await text_service.waiting.wait()
        refused = await generate(stub, "other", params=params)
        text_service.release.set()
        assert (await waiting).code == "OK"
    assert refused.code == "RESOURCE_EXHAUSTED"
    assert refused.details == "100 tokens wait and 100 more came; 150 may wait"
    assert refused.retry_seconds == 10


async def test_what_could_never_wait_is_the_callers_error(text_service):
    load = LoadConfig(max_waiting_tokens=100)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        outcome = await generate(stub, "p")
    assert outcome.code == "INVALID_ARGUMENT"
    assert "has 129 tokens (prompts and n × max_tokens); 100 may wait" in outcome.details


def test_each_prompt_of_a_tree_leaves_the_queue_by_itself():
    room = WaitingRoom(3, 100, EngineWatch())
    with room.wait(size_of(10, 20, 30)) as ticket:
        assert (room.num_requests, room.num_tokens) == (3, 60)
        for _ in range(2):
            ticket.leave_one((1,))
        assert (room.num_requests, room.num_tokens) == (2, 40)
        with pytest.raises(Overloaded, match="2 prompts wait and 2 more"):
            room.wait(size_of(1, 1)).__enter__()
        with pytest.raises(Overloaded, match="40 tokens wait and 61 more"):
            room.wait(size_of(61)).__enter__()
        with pytest.raises(InvalidRequest, match="has 4 prompts"):
            room.wait(size_of(1, 1, 1, 1)).__enter__()
        assert (room.num_requests, room.num_tokens) == (2, 40)
    assert (room.num_requests, room.num_tokens) == (0, 0)


def test_nobody_is_told_to_wait_for_hours():
    watch = EngineWatch()
    watch.observe(PACE)
    room = WaitingRoom(10, 1_000_000, watch)
    with room.wait(size_of(1_000_000)):
        assert room.retry_seconds() == 60


def test_time_in_the_queue_is_counted_from_step_to_step():
    now = [0.0]
    watch = EngineWatch(lambda: now[0])
    with watch.work("a") as at_once, watch.work("b") as later, watch.work("c") as never:
        for queue in ({"b"}, {"b", "c"}, {"c"}):
            now[0] += 1
            watch.observe(PACE, queue.__contains__)
    assert (at_once.has_waited, at_once.left) == (False, None)
    assert (later.has_waited, later.left) == (True, 3)
    assert (never.has_waited, never.left) == (True, None)


def test_steps_that_stand_still_are_noticed_only_where_there_is_work():
    now = [0.0]
    watch = EngineWatch(lambda: now[0])
    now[0] = 100.0
    assert watch.stalled_seconds() == 0
    with watch.work():
        now[0] = 110.0
        with watch.work():
            assert watch.stalled_seconds() == 10
        watch.observe(PACE)
        now[0] = 113.0
        assert watch.stalled_seconds() == 3
    assert watch.stalled_seconds() == 0


async def test_a_client_that_reads_nothing_does_not_make_the_server_look_dead(text_service):
    """Its call goes on when the engine has long done its part."""
    now = [0.0]
    watch = EngineWatch(lambda: now[0])
    load = LoadConfig(max_buffered_bytes=1 << 30)
    async with (
        listening(text_service, watch, load=load, stall_seconds=5) as server,
        connected(server) as stub,
    ):
        call = stub.Generate(pb.GenerateRequest(text="much"))
        await call.initial_metadata()
        await asyncio.wait_for(text_service.closed.wait(), 60)
        now[0] = 6.0
        assert server.num_calls == 1
        assert server.is_alive()
        assert len((await outcome_of(call)).text) > 20_000_000


async def test_work_without_steps_is_a_dead_process(text_service):
    now = [0.0]
    watch = EngineWatch(lambda: now[0])
    async with (
        listening(text_service, watch, stall_seconds=5) as server,
        connected(server) as stub,
    ):
        call = asyncio.create_task(generate(stub, "wait"))
        await text_service.waiting.wait()
        assert server.is_alive()
        now[0] = 6.0
        assert not server.is_alive()
        text_service.release.set()
        assert (await call).code == "OK"
        assert server.is_alive()


async def test_a_reader_that_takes_nothing_is_cut_off_and_others_go_on(text_service):
    load = LoadConfig(max_buffered_bytes=1 << 20)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        call = stub.Generate(pb.GenerateRequest(text="flood"))
        await call.initial_metadata()
        await asyncio.wait_for(text_service.closed.wait(), 60)
        assert (await generate(stub, "p")).code == "OK"
        outcome = await outcome_of(call)
        assert server.num_calls == 0
    assert outcome.code == "RESOURCE_EXHAUSTED"
    assert outcome.details.startswith("the reader is too slow: more than 1048576 bytes")
    assert outcome.retry_seconds is None


async def test_a_reader_is_cut_off_in_its_very_first_message_too(text_service):
    """The first message of "burst" alone is more than a connection takes unread."""
    load = LoadConfig(max_buffered_bytes=8 << 20)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        call = stub.Generate(pb.GenerateRequest(text="burst"))
        await call.initial_metadata()
        await asyncio.wait_for(text_service.closed.wait(), 60)
        assert (await generate(stub, "p")).code == "OK"
        outcome = await asyncio.wait_for(outcome_of(call), 60)
    assert outcome.code == "RESOURCE_EXHAUSTED"


async def test_a_server_that_stops_ends_a_call_that_nobody_reads(text_service):
    load = LoadConfig(max_buffered_bytes=1 << 30)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        call = stub.Generate(pb.GenerateRequest(text="burst"))
        await call.initial_metadata()
        await text_service.waiting.wait()
        await asyncio.wait_for(server.stop(), 60)
        outcome = await asyncio.wait_for(outcome_of(call), 60)
    assert outcome.code == "UNAVAILABLE"


async def test_a_reader_that_was_cut_off_and_never_reads_holds_nothing(text_service):
    load = LoadConfig(max_buffered_bytes=1 << 20, max_calls=1)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        call = stub.Generate(pb.GenerateRequest(text="flood"))
        await call.initial_metadata()
        await asyncio.wait_for(text_service.closed.wait(), 60)
        async with asyncio.timeout(60):
            while (await generate(stub, "p")).code != "OK":
                pass
        assert server.num_calls == 0


async def test_requests_have_a_largest_size(text_service):
    load = LoadConfig(max_message_bytes=1000)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        assert (await generate(stub, "x" * 900)).code == "OK"
        assert (await generate(stub, "x" * 1001)).code == "RESOURCE_EXHAUSTED"


async def test_a_connection_has_so_many_calls_at_once_and_the_rest_wait(text_service):
    load = LoadConfig(max_streams_per_connection=1)
    async with listening(text_service, load=load) as server, connected(server) as stub:
        assert (await generate(stub, "p")).code == "OK"
        first = asyncio.create_task(generate(stub, "wait"))
        await text_service.waiting.wait()
        second = asyncio.create_task(generate(stub, "p"))
        async with connected(server) as other:
            assert (await generate(other, "p")).code == "OK"
        assert (server.num_calls, second.done()) == (1, False)
        text_service.release.set()
        assert [(await call).code for call in (first, second)] == ["OK", "OK"]


async def test_an_old_connection_takes_no_new_calls_and_running_ones_end(text_service):
    load = LoadConfig(max_connection_age_seconds=1)
    async with (
        listening(text_service, load=load) as server,
        grpc.aio.insecure_channel(str(server.grpc_address)) as channel,
    ):
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        running = asyncio.create_task(generate(stub, "wait"))
        await text_service.waiting.wait()
        async with asyncio.timeout(60):
            # The server's GOAWAY takes the channel out of its ready state.
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        text_service.release.set()
        assert (await running).code == "OK"
        assert (await generate(stub, "p")).code == "OK"
