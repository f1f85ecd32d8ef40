"""One replica without a cluster: it refuses what was tokenised for another model."""

from dataclasses import replace

import numpy as np
import pytest
from ray_serve.conftest import OPTIONS

from treeserve.cluster.router import RoutedRequest
from treeserve.ray.calls import Failure, Generate, StreamCall, Times
from treeserve.types import RequestOptions, SamplingParams

pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'treeserve[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def replica():
    from treeserve.ray.replica import Replica

    return Replica(OPTIONS)


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
