"""Callers with the wrong key or certificate, and tenants who ask for the same: nobody gets near."""

import asyncio
import json
from contextlib import asynccontextmanager

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
from running_service import Told, collect, error_of, long_parameters, parameters
from server.certificates import Authority
from server.listening import bearer
from server.side_house import HOME, House, prefix

from treeserve.pb import admin_pb2, generation_pb2, prefix_pb2, tree_pb2
from treeserve.pb import generation_pb2 as pb
from treeserve.pb.generation_pb2_grpc import GenerationServiceStub
from treeserve.server.config import TlsFiles
from treeserve.server.key_file import revoke_key

NO_KEY = "a valid API key is needed, as metadata 'authorization: Bearer KEY'"


def secret_of(key) -> str:
    return key[0][1].removeprefix("Bearer ")


def key_id_of(key) -> str:
    return secret_of(key).split("_")[1]


async def test_every_method_says_the_same_to_every_wrong_key(plain_options):
    """Missing, wrong, cut off, twice, of another scheme, revoked and expired."""
    async with spotless_house(plain_options) as house:
        right = secret_of(house.own_key)
        revoked = house.new_key()
        revoke_key(house.key_file, key_id_of(revoked))
        expired = house.new_key()
        expire(house, key_id_of(expired))
        house.server.reload()
        shown = {
            "missing": (),
            "empty": (("authorization", ""),),
            "wrong": bearer("ts_00000000_" + "0" * 64),
            "of a known id": bearer(right[:-1] + ("0" if right[-1] != "0" else "1")),
            "cut off": bearer(right[:-1]),
            "twice": bearer(right) * 2,
            "of another scheme": (("authorization", f"Basic {right}"),),
            "revoked": revoked,
            "expired": expired,
        }
        for method in METHODS:
            answers = await asyncio.gather(*(call(house, method, b"", m) for m in shown.values()))
            assert set(answers) == {(CODE.UNAUTHENTICATED, NO_KEY)}, method
        print(f"\n{len(METHODS)} methods, {len(shown)} wrong keys each: {', '.join(shown)}")
        assert house.scheduler.counts().used_pages == 0
        await serves(house)


def expire(house: House, key_id: str) -> None:
    lines = [json.loads(line) for line in house.key_file.read_text().splitlines()]
    for line in lines:
        if line["id"] == key_id:
            line["expires"] = "2020-01-01T00:00:00Z"
    house.key_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


async def test_a_key_revoked_in_mid_stream_opens_no_new_call_and_its_stream_ends(options, expected):
    expected.log("ended 1 calls whose API keys are no longer valid")
    async with spotless_house(options) as house:
        key = house.new_key("acme")
        request = pb.GenerateRequest(text=TRUNK, params=long_parameters())
        async with house.held.standing():
            stream = house.generation.Generate(request, metadata=key)
            await began(stream)
            revoke_key(house.key_file, key_id_of(key))
            house.server.reload()
            for method in METHODS:
                assert (await call(house, method, b"", key))[0] is CODE.UNAUTHENTICATED, method
            assert (await error_of(stream)).code() is CODE.UNAUTHENTICATED


@asynccontextmanager
async def secured(address, credentials):
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
        yield channel


async def test_an_unknown_certificate_reaches_no_method_of_any_service(
    plain_options, authority, tmp_path
):
    """None, one of a strange authority with a known name, and one that has signed itself."""
    pair, stranger = authority.sign("server"), Authority(tmp_path, "stranger")
    tls = TlsFiles(pair.cert, pair.key, authority.cert)
    root = authority.cert.read_bytes()
    forged, own = stranger.sign("acme"), authority.sign("acme")
    itself = stranger.cert.read_bytes(), stranger._key.read_bytes()
    unknown = [
        grpc.ssl_channel_credentials(root),
        grpc.ssl_channel_credentials(root, forged.key.read_bytes(), forged.cert.read_bytes()),
        grpc.ssl_channel_credentials(root, itself[1], itself[0]),
    ]
    known = grpc.ssl_channel_credentials(root, own.key.read_bytes(), own.cert.read_bytes())
    async with spotless_house(plain_options, tls=tls) as house:
        addresses = house.server.grpc_address, house.server.side.admin_address
        for credentials in unknown:
            async with (
                secured(addresses[0], credentials) as channel,
                secured(addresses[1], credentials) as admin,
            ):
                for method, found in METHODS.items():
                    service = found.containing_service
                    through = admin if service.name == "AdminService" else channel
                    opened = through.unary_unary if not found.server_streaming else None
                    ask = opened or through.unary_stream
                    error = await error_of(
                        _bytes(ask(f"/{service.full_name}/{method}"), house.own_key)
                    )
                    assert error.code() is CODE.UNAVAILABLE, method
        assert house.scheduler.counts().used_pages == 0
        async with secured(addresses[0], known) as channel:
            asked = pb.GenerateRequest(text="abc", params=parameters(3))
            stub = GenerationServiceStub(channel)
            told = await collect(stub.Generate(asked, metadata=house.own_key))
            assert len(told.tokens()) == 3


def _bytes(ask, metadata):
    return ask(b"", metadata=metadata, timeout=60)


TREE = pb.TreeNode(
    text=TRUNK,
    branches=[pb.TreeNode(text="one", n=2), pb.TreeNode(text="two")],
    params=parameters(8, stopping=pb.Stopping(ignore_eos=True)),
)


class Caller:
    """Everything that a tenant can do with a prompt, and what it is told of it."""

    def __init__(self, house: House, tenant: str) -> None:
        self._house = house
        self.key = house.key_of(tenant)

    async def generate(self) -> Told:
        params = parameters(20, stopping=pb.Stopping(ignore_eos=True))
        request = pb.GenerateRequest(text=TRUNK, params=params)
        return await collect(self._house.generation.Generate(request, metadata=self.key))

    async def generate_tree(self) -> Told:
        request = pb.GenerateTreeRequest(tree=TREE)
        return await collect(self._house.generation.GenerateTree(request, metadata=self.key))

    async def warm(self):
        request = prefix_pb2.WarmRequest(prefix=prefix(TRUNK))
        return await self._house.prefix.Warm(request, metadata=self.key)

    async def save(self, name: str):
        request = prefix_pb2.SaveRequest(name=name, prefix=prefix(TRUNK), overwrite=True)
        return await self._house.prefix.Save(request, metadata=self.key)

    async def retain(self) -> int:
        request = prefix_pb2.RetainRequest(prefix=prefix(TRUNK))
        return (await self._house.prefix.Retain(request, metadata=self.key)).retained.id

    async def tree(self) -> tree_pb2.Tree:
        return (await self._house.tree.GetTree(tree_pb2.GetTreeRequest(), metadata=self.key)).tree

    async def refused(self, stub, method: str, request) -> tuple[grpc.StatusCode, str]:
        error = await error_of(getattr(stub, method)(request, metadata=self.key))
        return error.code(), error.details()


async def test_whatever_a_tenant_has_computed_warmed_or_saved_another_computes_again(
    options, tmp_path
):
    """The second tenant's numbers are those of a server that nobody has used."""
    async with spotless_house(options, tmp_path / "saved") as house:
        a, b = Caller(house, "a"), Caller(house, "b")
        own = await a.generate()
        await a.generate_tree()
        await a.warm()
        await a.save("mine")
        await a.retain()
        assert (await a.generate()).usage.cached_tokens > 0.8 * len(TRUNK), "it is cached, for a"

        told = await b.generate()
        assert (told.usage.cached_tokens, told.usage.shared_in_flight_tokens) == (0, 0)
        assert told.usage.computed_tokens == told.usage.prompt_tokens
        assert told.tokens() == own.tokens()


@pytest.mark.parametrize("way", ["generate_tree", "warm", "save"])
async def test_no_way_of_asking_finds_what_another_tenant_has(options, tmp_path, way):
    async with spotless_house(options, tmp_path / "saved") as house:
        a, b = Caller(house, "a"), Caller(house, "b")
        await a.generate()
        await a.generate_tree()
        await a.save("mine")
        if way == "generate_tree":
            told = await b.generate_tree()
            counted = [m.tree_usage for m in told.messages if m.HasField("tree_usage")]
            assert [usage.cached_tokens for usage in counted] == [0]
        elif way == "warm":
            warmed = await b.warm()
            assert (warmed.cached_tokens, warmed.computed_tokens) == (0, warmed.tokens)
        else:
            assert (await b.save("mine")).computed_tokens == len(TRUNK)


async def test_a_prefix_that_one_tenant_restores_is_a_hit_for_it_alone(options, tmp_path):
    async with spotless_house(options, tmp_path / "saved") as house:
        a, b = Caller(house, "a"), Caller(house, "b")
        await a.save("mine")
        await house.admin.ClearCache(admin_pb2.ClearCacheRequest())
        restore = prefix_pb2.RestoreRequest(name="mine")
        restored = await house.prefix.Restore(restore, metadata=a.key)
        assert restored.restored_tokens == len(TRUNK)
        assert (await b.warm()).cached_tokens == 0
        assert (await a.warm()).cached_tokens >= len(TRUNK) - 1


async def test_what_another_tenant_names_is_answered_as_if_it_were_nowhere(options, tmp_path):
    """Nobody learns from an answer whether a request, a retention or a file exists."""
    async with spotless_house(options, tmp_path / "saved") as house:
        a, b = Caller(house, "a"), Caller(house, "b")
        told = await a.generate()
        retained = await a.retain()
        await a.save("mine")
        async with house.held.standing():
            running = house.generation.Generate(
                pb.GenerateRequest(text=TRUNK, params=long_parameters()), metadata=a.key
            )
            live = await began(running)
            for theirs in (told.request_id, live):
                for method, request in (
                    ("Fork", lambda name: pb.ForkRequest(parent=pb.ForkParent(request_id=name))),
                    ("Abort", lambda name: pb.AbortRequest(request_id=name)),
                ):
                    code, details = await b.refused(house.generation, method, request(theirs))
                    nowhere = await b.refused(house.generation, method, request("nowhere"))
                    assert (code, details.replace(theirs, "nowhere")) == nowhere
                    assert code is CODE.NOT_FOUND
        for method, request, theirs, none in (
            ("Release", lambda n: prefix_pb2.ReleaseRequest(id=n), retained, 9),
            ("Restore", lambda n: prefix_pb2.RestoreRequest(name=n), "mine", "none"),
            ("DeleteSaved", lambda n: prefix_pb2.DeleteSavedRequest(name=n), "mine", "none"),
        ):
            code, details = await b.refused(house.prefix, method, request(theirs))
            nowhere = await b.refused(house.prefix, method, request(none))
            assert (code, details.replace(str(theirs), str(none))) == nowhere
            assert code is CODE.NOT_FOUND
        told = await collect(running)
        assert told.last().finish_reason == generation_pb2.FINISH_REASON_LENGTH
        await nothing_is_held(house)


async def test_a_tenants_tree_shows_nothing_of_another(options):
    async with spotless_house(options) as house:
        a, b = Caller(house, "a"), Caller(house, "b")
        await a.generate()
        before = await b.tree()
        assert (len(before.nodes), before.tokens, before.left_out_nodes) == (0, 0, 0)
        await b.warm()
        assert {node.namespace for node in (await b.tree()).nodes} == {"b"}
        assert {node.namespace for node in (await a.tree()).nodes} == {"a"}
        watch = house.tree.WatchTree(tree_pb2.WatchTreeRequest(), metadata=b.key)
        seen = (await watch.read()).tree
        watch.cancel()
        assert {node.namespace for node in seen.nodes} == {"b"}
        inspector = house.new_key(HOME, "inspect")
        everybody = tree_pb2.GetTreeRequest(all_namespaces=True).SerializeToString()
        assert (await call(house, "GetTree", everybody, inspector))[0] is CODE.PERMISSION_DENIED
