"""One replica without a cluster: it refuses what was tokenised for another model."""

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from ray_serve.conftest import OPTIONS

from treeserve.cluster.router import RoutedRequest
from treeserve.config import EngineOptions
from treeserve.errors import ModelError
from treeserve.ray.calls import Failure, Full, Generate, StreamCall, Times
from treeserve.types import FinishReason, RequestOptions, SamplingParams

pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'treeserve[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def replica():
    from treeserve.ray.replica import Replica

    return Replica(OPTIONS, {"max_waiting_requests": 1}, "one")


def call(served, token_ids=(1, 2, 3)) -> StreamCall:
    return StreamCall(
        asked=Generate(token_ids=token_ids, params=SamplingParams(max_tokens=2), output=None),
        options=RequestOptions(),
        times=Times(seconds_since=0.0, seconds_left=None),
        served=served,
        routed=RoutedRequest("", "", np.array(token_ids, dtype=np.int32)),
        router_id="router",
        work=5.0,
    )


async def test_a_call_for_another_model_or_version_is_refused_with_what_differs(replica):
    other = replace(await replica.describe(), version="9.9.9")
    [answer] = [answer async for answer in replica.stream(call(other))]
    assert isinstance(answer, Failure)
    assert answer.kind == "EngineStopped"
    assert "not '9.9.9'" in answer.arguments[0]


async def test_an_ingress_with_another_tokenizer_than_the_engines_does_not_start(replica):
    from treeserve.ray.ingress_parts import make_prompter

    other = replace(await replica.describe(), tokenizer="another")
    with pytest.raises(ModelError, match="the tokenizer of embedded on the ingress's node is"):
        make_prompter(other, EngineOptions())


async def test_open_work_is_told_by_router_and_gone_at_the_end(replica):
    stream = replica.stream(call(await replica.describe()))
    assert await anext(stream)
    during = await replica.record_routing_stats()
    assert during["work_by_router"] == {"router": 5.0}
    assert [answer async for answer in stream]
    after = await replica.record_routing_stats()
    assert after["work_by_router"] == {}
    assert after["number"] == during["number"] + 1
    assert 0 < after["num_cached_tokens"] < after["capacity_tokens"]


async def test_a_request_that_is_wrong_is_told_and_not_raised(replica):
    answers = replica.stream(call(await replica.describe(), token_ids=(10**6,)))
    [answer] = [answer async for answer in answers]
    assert (answer.kind, answer.arguments[0]) == ("InvalidRequest", "prompt[0]")


async def test_a_deadline_that_has_passed_ends_the_samples_in_the_engine(replica):
    late = replace(call(await replica.describe()), times=Times(seconds_since=1.0, seconds_left=0.0))
    batches = [answer async for answer in replica.stream(late)]
    [reason] = [
        delta.finish_reason for batch in batches for prompt in batch for delta in prompt.deltas
    ]
    assert reason is FinishReason.DEADLINE


async def test_a_replica_whose_waiting_room_is_full_says_so_before_anything_else(replica):
    held = threading.Event()
    served = await replica.describe()
    # The engine's thread does nothing until then, so the first call goes on waiting.
    holding = asyncio.create_task(replica._loop.look(lambda engine: held.wait()))
    first = replica.stream(call(served))
    starting = asyncio.create_task(anext(first))
    while not replica._waiting.num_requests:
        await asyncio.sleep(0)
    [refused] = [answer async for answer in replica.stream(call(served, (4, 5, 6)))]
    held.set()
    await holding
    assert isinstance(refused, Full)
    assert refused.replica_id == "one"
    assert refused.retry_seconds >= 1.0
    assert await starting
    assert [answer async for answer in first]
    again = [answer async for answer in replica.stream(call(served, (4, 5, 6)))]
    assert not isinstance(again[0], Full)
