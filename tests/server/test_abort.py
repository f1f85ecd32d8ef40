"""Requests, branches and samples end when somebody says so, over a real socket."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from running_service import (
    RunningService,
    Told,
    bad_field_of,
    collect,
    error_of,
    long_parameters,
    parameters,
    running_service,
)

from treeserve.config import EngineOptions
from treeserve.pb import generation_pb2 as pb

TRUNK = "What many prompts begin with is computed and stored once. " * 3


@pytest.fixture
async def service(checkpoint_of) -> AsyncIterator[RunningService]:
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=96, page_size=16)
    async with running_service(options) as running:
        yield running
        await running.assert_nothing_is_held()


async def start(service, **kwargs):
    """A stream that has drawn; the engine is to stand then, or it may be over."""
    call = service.stub.Generate(pb.GenerateRequest(text=TRUNK, params=long_parameters(), **kwargs))
    messages = aiter(call)
    told = Told([await anext(messages)])
    while not told.samples():
        told.messages.append(await anext(messages))
    return messages, told


async def test_a_request_ends_in_good_order_and_once(service):
    async with service.held.standing():
        call, told = await start(service, n=3)
        request = pb.AbortRequest(request_id=told.request_id)
        assert (await service.stub.Abort(request)).ended_samples == 3
        assert (await service.stub.Abort(request)).ended_samples == 0
    told.messages += [message async for message in call]
    assert {told.last(i).finish_reason for i in range(3)} == {pb.FINISH_REASON_ABORT}
    assert all(len(told.tokens(i)) < 400 for i in range(3))
    assert told.usage.prompt_tokens == len(TRUNK)
    assert (await service.stub.Abort(request)).ended_samples == 0


async def test_one_sample_ends_at_once_and_the_others_go_on(service):
    async with service.held.standing():
        call, told = await start(service, n=2)
        request = pb.AbortRequest(request_id=told.request_id, sample_index=1)
        assert (await service.stub.Abort(request)).ended_samples == 1
    told.messages += [message async for message in call]
    assert told.last(1).finish_reason == pb.FINISH_REASON_ABORT
    assert told.last(0).finish_reason == pb.FINISH_REASON_LENGTH
    assert len(told.tokens(0)) == 400
    assert told.usage.completion_tokens == 400 + len(told.tokens(1))


async def test_a_subtree_ends_and_its_siblings_go_on(service):
    inner = pb.TreeNode(text="a", n=1, branches=[pb.TreeNode(text="x", n=2)])
    tree = pb.TreeNode(text=TRUNK, branches=[inner, pb.TreeNode(text="b")])
    tree.params.CopyFrom(long_parameters())
    async with service.held.standing():
        call = aiter(service.stub.GenerateTree(pb.GenerateTreeRequest(tree=tree)))
        told = Told([await anext(call)])
        request = pb.AbortRequest(request_id=told.request_id, path=[0])
        assert (await service.stub.Abort(request)).ended_samples == 3
    told.messages += [message async for message in call]
    ended = {(0,): 1, (0, 0): 2}
    for path, n in ended.items():
        reasons = {told.last(i, path).finish_reason for i in range(n)}
        assert reasons == {pb.FINISH_REASON_ABORT}
    assert told.last(0, (1,)).finish_reason == pb.FINISH_REASON_LENGTH
    assert told.messages[-1].HasField("tree_usage")


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"path": [4]}, grpc.StatusCode.INVALID_ARGUMENT, "path"),
        ({"sample_index": 9}, grpc.StatusCode.INVALID_ARGUMENT, "sample_index"),
        ({"request_id": "other"}, grpc.StatusCode.NOT_FOUND, None),
        ({"request_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "request_id"),
    ],
)
async def test_what_is_not_there_is_named(service, change, code, path):
    told = await collect(service.stub.Generate(pb.GenerateRequest(text="ab", params=parameters(3))))
    error = await error_of(
        service.stub.Abort(pb.AbortRequest(**{"request_id": told.request_id, **change}))
    )
    assert error.code() is code
    if path is not None:
        assert bad_field_of(error) == path


async def test_branches_aborts_and_goers_leave_nothing_behind(service):
    """Many callers at once, each of whom branches, aborts or leaves at its own time."""

    async def visit(number: int) -> None:
        params = parameters(4 + number % 5)
        parent = await collect(
            service.stub.Generate(pb.GenerateRequest(text=TRUNK[: 9 * number + 1], params=params))
        )
        branch = pb.ForkParent(request_id=parent.request_id, num_tokens=number % 3)
        call = service.stub.Fork(
            pb.ForkRequest(parent=branch, n=1 + number % 3, params=long_parameters())
        )
        messages = aiter(call)
        first = await anext(messages)
        if number % 2:
            call.cancel()
        else:
            await service.stub.Abort(pb.AbortRequest(request_id=first.started.request_id))
            assert [message async for message in messages][-1].HasField("usage")

    await asyncio.gather(*(visit(number) for number in range(16)))
    await service.assert_nothing_is_held()
