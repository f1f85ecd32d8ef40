"""Clients that are killed, that cancel, that run late or that do not read, many of them at once."""

import asyncio
import os
import random
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from faults.spotless import CODE, TRUNK, WAIT_SECONDS, nothing_is_held, serves, spotless_house
from running_service import parameters
from server.side_house import HOME, House

from treeserve.engine_messages import TokenEvent
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc
from treeserve.server.config import LoadConfig

ROOT = Path(__file__).parents[2]
NUM_STREAMS = 500


@asynccontextmanager
async def visitor(house: House, num_streams: int):
    """A process whose streams all draw; killed in the end, without a word to the server."""
    [(_, key)] = house.own_key
    command = [str(Path(__file__).parent / "visitor.py"), str(house.server.grpc_address), key]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, str(num_streams)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await process.stdout.readline() == b"all draw\n"
        yield
    finally:
        process.kill()
        await process.wait()
        process._transport.close()


@pytest.mark.slow
async def test_killed_clients_leave_nothing_and_others_do_not_notice(options):
    """kill -9 of three processes of forty streams each, beside a client that stays."""
    asked = pb.GenerateRequest(
        text=TRUNK, params=parameters(300, stopping=pb.Stopping(ignore_eos=True))
    )
    async with spotless_house(replace(options, num_pages=8192)) as house:

        async def stay() -> int:
            stream = house.generation.Generate(asked)
            return sum([len(s.token_ids) async for m in stream for s in m.samples])

        # All are in the midst of their work when they are killed, however long they took to come.
        async with house.held.standing(num_requests=3 * 40 + 1):
            staying = asyncio.create_task(stay())
            async with AsyncExitStack() as visitors:
                come = (visitors.enter_async_context(visitor(house, 40)) for _ in range(3))
                await asyncio.gather(*come)
        assert await staying == 300
        labels = {"method": "Generate", "code": "CANCELLED", "tenant": HOME}
        num_lost = house.metrics.registry.get_sample_value("treeserve_calls_total", labels)
        assert num_lost == 3 * 40
        await nothing_is_held(house)
        await serves(house)


@pytest.mark.slow
async def test_five_hundred_streams_with_cancels_and_deadlines_leave_nothing(options):
    """Those that nobody disturbs draw all their tokens; the pool is far too small for all."""
    chance = random.Random(4)
    ended: Counter[str] = Counter()

    async def stream(house: House, number: int) -> None:
        kind = ("stays", "stays", "cancels", "is late")[number % 4]
        n, max_tokens = chance.randrange(1, 4), chance.randrange(1, 25)
        params = parameters(max_tokens, stopping=pb.Stopping(ignore_eos=True))
        text = TRUNK[: chance.randrange(1, len(TRUNK))] + str(number % 7)
        patience = chance.randrange(0, 6) if kind == "cancels" else None
        timeout = chance.choice([1e-4, 0.05, 0.5, 2]) if kind == "is late" else None
        request = pb.GenerateRequest(text=text, n=n, params=params)
        call = house.generation.Generate(request, timeout=timeout)
        num_tokens = 0
        try:
            while True:
                if patience == 0:
                    call.cancel()
                message = await call.read()
                if message is grpc.aio.EOF:
                    break
                num_tokens += sum(len(sample.token_ids) for sample in message.samples)
                patience = None if patience is None else patience - 1
        except asyncio.CancelledError:
            assert patience is not None
        except grpc.aio.AioRpcError as error:
            if (error.code(), kind) != (CODE.DEADLINE_EXCEEDED, "is late"):
                raise
        code = await call.code()
        ended[f"{kind}: {code.name}"] += 1
        if kind == "stays":
            assert (code, num_tokens) == (CODE.OK, n * max_tokens)

    async with spotless_house(replace(options, num_pages=128)) as house:
        await asyncio.gather(*(stream(house, number) for number in range(NUM_STREAMS)))
        print("\n", dict(sorted(ended.items())))
        await nothing_is_held(house)
        await serves(house)
    assert ended["stays: OK"] == NUM_STREAMS // 2
    assert ended["cancels: CANCELLED"] > 0
    assert ended["is late: DEADLINE_EXCEEDED"] > 0


class Pace:
    """In which steps each of the engine's requests drew."""

    def __init__(self, house: House, monkeypatch) -> None:
        self.steps_of: dict[str, list[int]] = {}
        self._step = 0
        told = house.loop._tell

        def tell(events, numbers) -> None:
            if numbers is not None and numbers.num_rows:
                self._step += 1
            for event in events:
                if isinstance(event, TokenEvent):
                    self.steps_of.setdefault(event.request_id, []).append(self._step)
            told(events, numbers)

        monkeypatch.setattr(house.loop, "_tell", tell)

    def had_a_token_in_each_of_its_steps(self, request_id: str) -> bool:
        steps = sorted(set(self.steps_of[request_id]))
        return steps == list(range(steps[0], steps[-1] + 1))


def large(text: str, max_tokens: int, n: int) -> pb.GenerateRequest:
    """Many bytes for each token."""
    params = parameters(
        max_tokens, stopping=pb.Stopping(ignore_eos=True), output=pb.Output(logprobs=20)
    )
    return pb.GenerateRequest(text=text, n=n, params=params)


async def test_slow_readers_are_cut_off_and_every_other_stream_draws_in_every_step(
    options, monkeypatch
):
    """Four read nothing, over connections of their own with little room; eight read."""
    load = LoadConfig(max_buffered_bytes=1 << 16)
    narrow = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 1 << 16),
    )
    async with spotless_house(replace(options, num_pages=4096), load=load) as house:
        pace = Pace(house, monkeypatch)
        channels = [
            grpc.aio.insecure_channel(str(house.server.grpc_address), options=narrow)
            for _ in range(4)
        ]
        slow = []
        for number, channel in enumerate(channels):
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            slow.append(stub.Generate(large(f"slow {number}", 900, 8), metadata=house.own_key))
            await slow[-1].initial_metadata()

        async def read(number: int) -> int:
            stream = house.generation.Generate(large(f"{number} {TRUNK}", 150, 1))
            return sum([len(s.token_ids) async for m in stream for s in m.samples])

        assert await asyncio.gather(*(read(number) for number in range(8))) == [150] * 8
        await house.calls_have_ended(WAIT_SECONDS)
        for stream in slow:
            with pytest.raises(grpc.aio.AioRpcError, match="the reader is too slow"):
                [_ async for _ in stream]
            assert await stream.code() is CODE.RESOURCE_EXHAUSTED
        assert len(pace.steps_of) == 12
        assert all(map(pace.had_a_token_in_each_of_its_steps, pace.steps_of))
        drawn = [len(steps) for steps in pace.steps_of.values()]
        assert sorted(drawn)[8:] < [900 * 8] * 4, "the slow ones were ended long before their end"
        await nothing_is_held(house)
        for channel in channels:
            await channel.close()
        await serves(house)
