"""Metrics are there when they are needed most: while the engine makes no step."""

import asyncio
import threading

import grpc
import pytest
from running_service import long_parameters
from server.side_house import running_house

from treeserve.config import EngineOptions
from treeserve.pb import generation_pb2 as pb


@pytest.fixture
def options(checkpoint_of):
    return EngineOptions(model=str(checkpoint_of("llama")), dtype="float32", num_pages=256)


async def test_metrics_are_scraped_while_the_engine_is_stuck_and_say_so(options):
    released = threading.Event()
    async with running_house(options) as house:
        value = house.metrics.registry.get_sample_value
        async with house.held.standing() as stands:
            stream = house.generation.Generate(
                pb.GenerateRequest(text="Read.", params=long_parameters())
            )
            await stands()
            # The engine's thread is in a call that does not come back.
            stuck = asyncio.create_task(house.loop.call(lambda engine: released.wait(200)))
            try:
                async with asyncio.timeout(120):
                    while value("treeserve_engine_stalled_seconds") < 0.2:
                        await asyncio.sleep(0.01)
                drawn = value("treeserve_completion_tokens_total")
                assert b"treeserve_running_samples 1.0" in house.metrics.render()
                assert value("treeserve_calls_running") == 1
                assert value("treeserve_completion_tokens_total") == drawn > 0
            finally:
                released.set()
            assert await stuck
        while await stream.read() is not grpc.aio.EOF:
            pass
        assert value("treeserve_completion_tokens_total") > drawn


async def test_a_server_that_drains_is_not_ready(options):
    async with running_house(options) as house:
        value = house.metrics.registry.get_sample_value
        assert value("treeserve_ready") == 1
        await house.server.drain()
        assert value("treeserve_ready") == 0
