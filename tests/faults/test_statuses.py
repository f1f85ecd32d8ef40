"""Every status that the service promises, from the method that gives it, over a real socket."""

import grpc
import pytest
from faults.spotless import (
    CODE,
    METHODS,
    TRUNK,
    began,
    call,
    nothing_is_held,
    serves,
    spotless_house,
)
from running_service import bad_field_of, collect, error_of, long_parameters, parameters
from server.listening import generate, outcome_of
from server.side_house import HOME, prefix

from treeserve.pb import admin_pb2, prefix_pb2, tree_pb2
from treeserve.pb import generation_pb2 as pb
from treeserve.server.config import LoadConfig


@pytest.fixture
async def house(options, tmp_path):
    async with spotless_house(options, tmp_path / "saved") as house:
        yield house
        await serves(house)


def long_request(**fields) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=TRUNK, params=long_parameters(), **fields)


async def test_invalid_argument_names_the_field_whichever_method_it_came_to(house):
    bad = parameters(0)
    wrong = {
        "params.stopping.max_tokens": house.generation.Generate(
            pb.GenerateRequest(text="a", params=bad)
        ),
        "tree.branches[0].params.stopping.max_tokens": house.generation.GenerateTree(
            pb.GenerateTreeRequest(
                tree=pb.TreeNode(text="a", branches=[pb.TreeNode(text="b", params=bad)])
            )
        ),
        "parent.request_id": house.generation.Fork(pb.ForkRequest()),
        "request_id": house.generation.Abort(pb.AbortRequest()),
        "prompt": house.generation.Tokenize(pb.TokenizeRequest()),
        "token_ids[1]": house.generation.Detokenize(pb.DetokenizeRequest(token_ids=[1, 320])),
        "max_nodes": house.tree.GetTree(tree_pb2.GetTreeRequest(max_nodes=0)),
        "interval_seconds": house.tree.WatchTree(tree_pb2.WatchTreeRequest(interval_seconds=0)),
        "prefix": house.prefix.Warm(prefix_pb2.WarmRequest()),
        "weight": house.prefix.Retain(prefix_pb2.RetainRequest(prefix=prefix("abc"), weight=-1)),
        "name": house.prefix.Restore(prefix_pb2.RestoreRequest(name="../x")),
        "level": house.admin.SetLogLevel(admin_pb2.SetLogLevelRequest()),
        "seconds": house.admin.Calibrate(admin_pb2.CalibrateRequest(seconds=0)),
    }
    for field, answer in wrong.items():
        error = await error_of(answer)
        assert (error.code(), bad_field_of(error)) == (CODE.INVALID_ARGUMENT, field), error


async def test_resource_exhausted_says_when_to_try_again(options):
    """Of Generate, GenerateTree, Fork and Warm, while as many calls run as there may be."""
    async with (
        spotless_house(options, load=LoadConfig(max_calls=1)) as house,
        house.held.standing(),
    ):
        running = house.generation.Generate(long_request())
        request_id = await began(running)
        tree = pb.GenerateTreeRequest(tree=pb.TreeNode(text="a"))
        fork = pb.ForkRequest(parent=pb.ForkParent(request_id=request_id))
        for refused in (
            house.generation.Generate(pb.GenerateRequest(text="a")),
            house.generation.GenerateTree(tree),
            house.generation.Fork(fork),
        ):
            outcome = await outcome_of(refused)
            assert (outcome.code, outcome.retry_seconds > 0) == ("RESOURCE_EXHAUSTED", True)
        warm = prefix_pb2.WarmRequest(prefix=prefix("a")).SerializeToString()
        assert (await call(house, "Warm", warm))[0] is CODE.RESOURCE_EXHAUSTED
        running.cancel()


async def test_deadline_exceeded_ends_the_work_too(house):
    """Of Generate, GenerateTree and Warm."""
    tree = pb.TreeNode(text=TRUNK, branches=[pb.TreeNode(text="a")], params=long_parameters())
    # Not cached by what came before, so that it cannot be done at once.
    warm = prefix_pb2.WarmRequest(prefix=prefix(TRUNK[::-1]))
    never = 1 << 30
    for method, request, timeout, num_requests in (
        (house.generation.Generate, long_request(n=50), 0.02, 1),
        (house.generation.GenerateTree, pb.GenerateTreeRequest(tree=tree), 1e-4, 1),
        # It is done in one step, and so it has none.
        (house.prefix.Warm, warm, 1e-5, never),
    ):
        async with house.held.standing(num_requests=num_requests):
            error = await error_of(method(request, timeout=timeout))
            assert error.code() is CODE.DEADLINE_EXCEEDED
        await nothing_is_held(house)


async def test_cancelled_ends_the_work_too(house):
    """Of Generate, GenerateTree and Fork, each in mid-stream."""
    parent = await collect(house.generation.Generate(pb.GenerateRequest(text="a")))
    tree = pb.TreeNode(text=TRUNK, branches=[pb.TreeNode(text="a", n=3)], params=long_parameters())
    fork = pb.ForkRequest(
        parent=pb.ForkParent(request_id=parent.request_id), params=long_parameters()
    )
    for method, request in (
        (house.generation.Generate, long_request()),
        (house.generation.GenerateTree, pb.GenerateTreeRequest(tree=tree)),
        (house.generation.Fork, fork),
    ):
        async with house.held.standing():
            stream = method(request)
            await began(stream)
            stream.cancel()
            assert await stream.code() is CODE.CANCELLED
        await nothing_is_held(house)


async def test_unauthenticated_is_what_every_method_says_to_a_stranger(house):
    for method in METHODS:
        for shown in ((), (("authorization", "Bearer nonsense"),)):
            assert (await call(house, method, b"", shown))[0] is CODE.UNAUTHENTICATED, method
    assert house.scheduler.counts().used_pages == 0


NEEDED = {
    "GenerationService": "generate",
    "TreeService": "inspect",
    "PrefixService": "retain",
    "ModuleService": "retain",
}


async def test_permission_denied_names_what_every_method_needs(house):
    every = {"generate", "inspect", "retain", "publish", "admin"}
    for method, found in METHODS.items():
        needed = NEEDED.get(found.containing_service.name, "admin")
        key = house.new_key(HOME, ",".join(sorted(every - {needed})))
        code, details = await call(house, method, b"", key)
        assert code is CODE.PERMISSION_DENIED, method
        assert f"the permission {needed!r} is needed" in details
    public = pb.GenerateTreeRequest(tree=pb.TreeNode(text="a"), public_trunk=True)
    key = house.new_key(HOME, ",".join(sorted(every - {"publish"})))
    code, details = await call(house, "GenerateTree", public.SerializeToString(), key)
    assert (code, "'publish' is needed" in details) == (CODE.PERMISSION_DENIED, True)


async def test_not_found_is_said_of_what_is_not_the_callers(house):
    """Of Fork, Abort, Release, Restore and DeleteSaved."""
    for absent in (
        house.generation.Fork(pb.ForkRequest(parent=pb.ForkParent(request_id="nobody"))),
        house.generation.Abort(pb.AbortRequest(request_id="nobody")),
        house.prefix.Release(prefix_pb2.ReleaseRequest(id=99)),
        house.prefix.Restore(prefix_pb2.RestoreRequest(name="nothing")),
        house.prefix.DeleteSaved(prefix_pb2.DeleteSavedRequest(name="nothing")),
    ):
        assert (await error_of(absent)).code() is CODE.NOT_FOUND


async def test_failed_precondition_says_what_the_server_lacks(house, options):
    """Of a chat without a template, a calibration beside requests, and saving without a folder."""
    chat = pb.Chat(messages=[pb.Message(role="user", content="a")])
    for lacking in (
        house.generation.Generate(pb.GenerateRequest(chat=chat)),
        house.generation.Tokenize(pb.TokenizeRequest(chat=chat)),
        house.generation.CountTokens(pb.CountTokensRequest(chat=chat)),
    ):
        assert (await error_of(lacking)).code() is CODE.FAILED_PRECONDITION
    async with house.held.standing():
        running = house.generation.Generate(long_request())
        await began(running)
        busy = await error_of(house.admin.Calibrate(admin_pb2.CalibrateRequest(seconds=1)))
        assert busy.code() is CODE.FAILED_PRECONDITION
        running.cancel()
    async with spotless_house(options) as without_folder:
        save = prefix_pb2.SaveRequest(name="n", prefix=prefix("a"))
        error = await error_of(without_folder.prefix.Save(save))
        assert (error.code(), "--prefix-folder" in error.details()) == (
            CODE.FAILED_PRECONDITION,
            True,
        )


async def test_already_exists_is_said_of_ids_and_names_in_use(house):
    """Of Generate and Save."""
    known = pb.RequestOptions(request_id="known")
    assert (
        await generate(house.generation, "a", metadata=house.own_key, options=known)
    ).code == "OK"
    outcome = await generate(house.generation, "a", metadata=house.own_key, options=known)
    assert outcome.code == "ALREADY_EXISTS"
    save = prefix_pb2.SaveRequest(name="known", prefix=prefix("abc"))
    await house.prefix.Save(save)
    assert (await error_of(house.prefix.Save(save))).code() is CODE.ALREADY_EXISTS


async def test_out_of_range_is_said_of_tokens_that_nobody_drew(house):
    """Of Fork."""
    parent = await collect(
        house.generation.Generate(pb.GenerateRequest(text="a", params=parameters(3)))
    )
    where = pb.ForkParent(request_id=parent.request_id, num_tokens=4)
    error = await error_of(house.generation.Fork(pb.ForkRequest(parent=where)))
    assert error.code() is CODE.OUT_OF_RANGE


async def test_data_loss_is_said_of_a_damaged_file(house):
    """Of Restore, and nothing of the file is loaded."""
    await house.prefix.Save(prefix_pb2.SaveRequest(name="n", prefix=prefix(TRUNK)))
    await house.admin.ClearCache(admin_pb2.ClearCacheRequest())
    [file] = [file for file in house.folder.rglob("*") if file.is_file()]
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    error = await error_of(house.prefix.Restore(prefix_pb2.RestoreRequest(name="n")))
    assert error.code() is CODE.DATA_LOSS
    assert house.scheduler.counts().used_pages == 0


async def test_unimplemented_is_said_of_a_method_that_there_is_not(house):
    unknown = house.channel.unary_unary("/treeserve.v1.GenerationService/Guess")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown(b"", metadata=house.own_key)
    assert caught.value.code() is CODE.UNIMPLEMENTED


READY_NO_MORE = ("Generate", "GenerateTree", "Fork", "Tokenize", "Warm", "Retain", "GetTree")


async def test_unavailable_is_said_while_a_server_drains_and_running_calls_end_well(options):
    """Of all but Abort and administration; the running stream loses nothing."""
    async with spotless_house(options) as house:
        async with house.held.standing():
            running = house.generation.Generate(long_request())
            await began(running)
            draining = house.admin.Drain(admin_pb2.DrainRequest())
            while (await house.admin.GetStatus(admin_pb2.GetStatusRequest())).phase == "ready":
                pass
            for method in READY_NO_MORE:
                code, details = await call(house, method, b"")
                assert (code, details) == (CODE.UNAVAILABLE, "the server is draining"), method
        told = await collect(running)
        assert told.last().finish_reason == pb.FINISH_REASON_LENGTH
        assert (await draining).all_ended
