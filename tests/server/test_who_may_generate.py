"""Whose calls GenerationService takes, and whose requests they reach, over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

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
from server.listening import bearer

from treeserve.config import EngineOptions, RequestLimits
from treeserve.pb import generation_pb2 as pb
from treeserve.server.config import AccessConfig, LoadConfig
from treeserve.server.identity import Allowance, Permission
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret

TRUNK = "What many prompts begin with is computed and stored once. " * 3
TREE = pb.TreeNode(text=TRUNK, branches=[pb.TreeNode(text="private")], params=parameters(2))
REQUESTS = {
    "Generate": pb.GenerateRequest(text="a"),
    "GenerateTree": pb.GenerateTreeRequest(tree=pb.TreeNode(text="a")),
    "Fork": pb.ForkRequest(parent=pb.ForkParent(request_id="r")),
    "Abort": pb.AbortRequest(request_id="r"),
    "Tokenize": pb.TokenizeRequest(text="a"),
    "Detokenize": pb.DetokenizeRequest(token_ids=[1]),
    "CountTokens": pb.CountTokensRequest(text="a"),
}
Open = Callable[..., AbstractAsyncContextManager[RunningService]]


@dataclass(frozen=True)
class Keys:
    """A file of keys."""

    path: Path

    def new(self, tenant: str, *permissions: Permission, **allowance) -> tuple:
        """The metadata of calls with a new key; without permissions named, it may generate."""
        key_id, secret = new_secret()
        add_key(
            self.path,
            ApiKey(
                key_id=key_id,
                digest=digest_of(secret),
                tenant=tenant,
                permissions=frozenset(permissions or (Permission.GENERATE,)),
                allowance=Allowance(**allowance),
            ),
        )
        return bearer(secret)


@pytest.fixture
def keys(tmp_path) -> Keys:
    return Keys(tmp_path / "keys.jsonl")


@pytest.fixture
def open_service(checkpoint_of, keys) -> Open:
    """A function that starts a server which asks for those keys."""

    @asynccontextmanager
    async def start(limits: RequestLimits | None = None, **config) -> AsyncIterator[RunningService]:
        options = EngineOptions(
            model=str(checkpoint_of("llama")),
            num_pages=96,
            page_size=16,
            limits=limits or RequestLimits(),
        )
        access = AccessConfig(api_keys=keys.path)
        async with running_service(options, access=access, **config) as running:
            yield running
            await running.assert_nothing_is_held()

    return start


async def begin(service: RunningService, key: tuple, **fields) -> tuple[object, Told]:
    """A long request, once it has drawn; the engine is to stand then, or it may be over."""
    request = pb.GenerateRequest(text=TRUNK, params=long_parameters(), **fields)
    call, told = service.stub.Generate(request, metadata=key), Told()
    async for message in call:
        told.messages.append(message)
        if len(told.tokens()) >= 8:
            break
    return call, told


async def test_no_method_answers_without_a_key_or_with_one_that_may_not_generate(
    open_service, keys
):
    other = keys.new("acme", Permission.INSPECT, Permission.PUBLISH)
    async with open_service() as service:
        for method, request in REQUESTS.items():
            call = getattr(service.stub, method)
            stranger = await error_of(call(request))
            assert stranger.code() is grpc.StatusCode.UNAUTHENTICATED, method
            error = await error_of(call(request, metadata=other))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED, method
            assert "'generate'" in error.details()


async def test_a_public_trunk_needs_the_permission_to_publish(open_service, keys):
    plain = keys.new("acme")
    publisher = keys.new("acme", Permission.GENERATE, Permission.PUBLISH)
    stranger = keys.new("bolt", Permission.GENERATE, Permission.PUBLISH)
    public = pb.GenerateTreeRequest(tree=TREE, public_trunk=True)

    async def computed(service: RunningService, key: tuple) -> int:
        told = await collect(service.stub.GenerateTree(public, metadata=key))
        return told.usage.computed_tokens

    async with open_service() as service:
        error = await error_of(service.stub.GenerateTree(public, metadata=plain))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "'publish'" in error.details()
        private = pb.GenerateTreeRequest(tree=TREE)
        await collect(service.stub.GenerateTree(private, metadata=plain))
        # Nothing of what was refused, and nothing private, is there for the others.
        assert await computed(service, stranger) == len(TRUNK) + len("private")
        assert await computed(service, publisher) == len("private")


async def test_another_tenants_sample_cannot_be_branched_or_ended(open_service, keys):
    mine, mine_too, theirs = keys.new("acme"), keys.new("acme"), keys.new("bolt")
    async with open_service() as service:
        alone = pb.GenerateRequest(text=TRUNK, params=long_parameters())
        expected = (await collect(service.stub.Generate(alone, metadata=mine))).tokens()
        call, told = await begin(service, mine)
        fork = pb.ForkRequest(
            parent=pb.ForkParent(request_id=told.request_id, num_tokens=4), params=parameters(3)
        )
        abort = pb.AbortRequest(request_id=told.request_id)
        for refused in (
            service.stub.Fork(fork, metadata=theirs),
            service.stub.Abort(abort, metadata=theirs),
        ):
            error = await error_of(refused)
            assert error.code() is grpc.StatusCode.NOT_FOUND
        # The same text as for a request that never was.
        never = pb.AbortRequest(request_id="0" * 32)
        unknown = await error_of(service.stub.Abort(never, metadata=theirs))
        assert unknown.details() == error.details().replace(told.request_id, "0" * 32)

        branch = await collect(service.stub.Fork(fork, metadata=mine_too))
        assert branch.usage.prompt_tokens == len(TRUNK) + 4
        told.messages += [message async for message in call]
        assert told.tokens() == expected


async def test_ids_of_one_tenant_are_free_for_another(open_service, keys):
    mine, theirs = keys.new("acme"), keys.new("bolt")
    options = pb.RequestOptions(request_id="job-7")
    async with open_service() as service:
        async with service.held.standing(num_requests=2):
            begun = (begin(service, key, options=options) for key in (mine, theirs))
            (call, told), (_, other) = await asyncio.gather(*begun)
            assert (told.request_id, other.request_id) == ("job-7", "job-7")
            abort = pb.AbortRequest(request_id="job-7")
            assert (await service.stub.Abort(abort, metadata=theirs)).ended_samples == 1
        told.messages += [message async for message in call]
        assert told.last().finish_reason == pb.FINISH_REASON_LENGTH


async def test_what_a_key_may_have_in_flight_counts_branches_and_holds_up_no_abort(
    open_service, keys
):
    key = keys.new("acme", max_requests=1, max_tokens=len(TRUNK) + 400)
    async with open_service() as service:
        async with service.held.standing():
            call, told = await begin(service, key)
            parent = pb.ForkParent(request_id=told.request_id, num_tokens=1)
            fork = pb.ForkRequest(parent=parent, params=parameters(2))
            error = await error_of(service.stub.Fork(fork, metadata=key))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.details().startswith("max_requests: ")
            abort = pb.AbortRequest(request_id=told.request_id)
            assert (await service.stub.Abort(abort, metadata=key)).ended_samples == 1
        told.messages += [message async for message in call]
        assert told.last().finish_reason == pb.FINISH_REASON_ABORT
        large = pb.ForkRequest(parent=parent, params=long_parameters())
        error = await error_of(service.stub.Fork(large, metadata=key))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details().startswith("max_tokens: ")
        assert (await collect(service.stub.Fork(fork, metadata=key))).tokens()


async def test_quick_methods_count_towards_a_keys_calls_a_minute(open_service, keys):
    key = keys.new("acme", requests_per_minute=1)
    async with open_service() as service:
        request = pb.TokenizeRequest(text="abc")
        assert (await service.stub.Tokenize(request, metadata=key)).token_ids
        error = await error_of(service.stub.Detokenize(REQUESTS["Detokenize"], metadata=key))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_full_server_takes_aborts_and_no_branches(open_service, keys):
    key = keys.new("acme")
    async with open_service(load=LoadConfig(max_calls=1)) as service:
        async with service.held.standing():
            call, told = await begin(service, key)
            parent = pb.ForkParent(request_id=told.request_id, num_tokens=1)
            error = await error_of(service.stub.Fork(pb.ForkRequest(parent=parent), metadata=key))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            abort = pb.AbortRequest(request_id=told.request_id)
            assert (await service.stub.Abort(abort, metadata=key)).ended_samples == 1
        told.messages += [message async for message in call]


async def test_a_draining_server_takes_aborts_and_no_branches(open_service, keys):
    key = keys.new("acme")
    async with open_service(drain_grace_seconds=60) as service:
        async with service.held.standing():
            call, told = await begin(service, key)
            draining = asyncio.create_task(service.server.drain())
            await asyncio.sleep(0)
            parent = pb.ForkParent(request_id=told.request_id, num_tokens=1)
            error = await error_of(service.stub.Fork(pb.ForkRequest(parent=parent), metadata=key))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            abort = pb.AbortRequest(request_id=told.request_id)
            assert (await service.stub.Abort(abort, metadata=key)).ended_samples == 1
        told.messages += [message async for message in call]
        assert told.last().finish_reason == pb.FINISH_REASON_ABORT
        assert await draining


@pytest.mark.parametrize(
    ("limits", "fields", "path"),
    [
        ({"max_n": 2}, {"n": 3}, "n"),
        ({"max_drawn_tokens": 799}, {"n": 2}, "params.stopping.max_tokens"),
        ({"max_prompt_tokens": len(TRUNK)}, {}, "prompt"),
        (
            {"max_stop_strings": 1},
            {"params": pb.Parameters(stopping=pb.Stopping(stop=["b", "c"]))},
            "params.stopping.stop",
        ),
    ],
)
async def test_the_hosts_limits_hold_for_branches(open_service, keys, limits, fields, path):
    key = keys.new("acme")
    async with open_service(RequestLimits(**limits)) as service:
        call, told = await begin(service, key)
        parent = pb.ForkParent(request_id=told.request_id, num_tokens=1)
        request = pb.ForkRequest(parent=parent, **fields)
        error = await error_of(service.stub.Fork(request, metadata=key))
        assert (error.code(), bad_field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, path)
        call.cancel()


async def test_the_hosts_limits_of_trees_hold_where_tokens_are_counted(open_service, keys):
    key = keys.new("acme")
    async with open_service(RequestLimits(max_tree_nodes=1)) as service:
        request = pb.CountTokensRequest(tree=TREE)
        error = await error_of(service.stub.CountTokens(request, metadata=key))
        assert (error.code(), bad_field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "tree")
