"""Keys, permissions and limits of callers, over real sockets."""

import asyncio
import logging
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from server.listening import connected, fetch, generate, listening, outcome_of

from treeserve.pb import generation_pb2 as pb
from treeserve.server.config import AccessConfig, Address
from treeserve.server.identity import Allowance, Permission
from treeserve.server.key_file import add_key, revoke_key
from treeserve.server.keys import ApiKey, digest_of, new_secret
from treeserve.server.quotas import Quotas
from treeserve.server.refusals import Overloaded


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "keys.jsonl"


@pytest.fixture
def new_key(path):
    """A function that adds a key to the file and gives it back."""

    def make(tenant: str = "acme", **fields) -> str:
        key_id, secret = new_secret()
        add_key(path, ApiKey(key_id=key_id, digest=digest_of(secret), tenant=tenant, **fields))
        return secret

    return make


def keys(path: Path, **options) -> AccessConfig:
    # Changes are looked at when a test says so.
    return AccessConfig(api_keys=path, reload_seconds=1e6, **options)


async def test_calls_without_a_valid_key_end_alike_and_reach_nothing(path, new_key, text_service):
    good, revoked = new_key(), new_key(disabled=True)
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        refused = [await generate(stub, key=key) for key in (None, "nonsense", revoked)]
        assert text_service.seen == []
        tree = stub.GenerateTree(pb.GenerateTreeRequest(tree=pb.TreeNode(text="p")))
        refused.append(await outcome_of(tree))
        assert (await generate(stub, key=good)).text == "ab"
    assert {outcome.code for outcome in refused} == {"UNAUTHENTICATED"}
    assert len({outcome.details for outcome in refused}) == 1


async def test_the_key_decides_tenant_and_namespace(path, new_key, text_service):
    one, other = new_key("one"), new_key("other")
    odd = (("tenant", "other"), ("namespace", "other"))
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        await generate(stub, key=one, metadata=odd)
        await generate(stub, key=other)
    assert [(c.namespace, c.tenant) for c in text_service.options] == [
        ("one", "one"),
        ("other", "other"),
    ]


async def test_revoked_and_new_keys_count_without_a_restart(path, new_key, text_service):
    first = new_key()
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        assert (await generate(stub, key=first)).code == "OK"
        second = new_key()
        revoke_key(path, first.split("_")[1])
        server.reload(only_if_changed=True)
        assert (await generate(stub, key=first)).code == "UNAUTHENTICATED"
        assert (await generate(stub, key=second)).code == "OK"


async def test_a_change_of_the_file_is_noticed_by_itself(path, new_key, text_service):
    first = new_key()
    access = AccessConfig(api_keys=path, reload_seconds=0.01)
    async with listening(text_service, access=access) as server, connected(server) as stub:
        revoke_key(path, first.split("_")[1])
        async with asyncio.timeout(60):
            while (await generate(stub, key=first)).code != "UNAUTHENTICATED":
                pass


@pytest.mark.parametrize("content", ["{", None])
async def test_after_a_malformed_reload_the_old_keys_stay(
    path, new_key, text_service, caplog, content
):
    key = new_key()
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        server.reload()
        assert "the old API keys stay: api_keys: " in caplog.text
        assert (await generate(stub, key=key)).code == "OK"


async def test_a_missing_permission_is_named(path, new_key, text_service):
    key = new_key(permissions=frozenset({Permission.INSPECT}))
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        outcome = await generate(stub, key=key)
    assert outcome.code == "PERMISSION_DENIED"
    assert "'generate'" in outcome.details
    assert text_service.seen == []


async def test_a_key_has_so_many_calls_at_once_and_no_more(path, new_key, text_service):
    key, other = new_key(allowance=Allowance(max_requests=1)), new_key()
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        running = asyncio.create_task(generate(stub, "wait", key=key))
        await text_service.waiting.wait()
        refused = await generate(stub, key=key)
        assert (await generate(stub, key=other)).code == "OK"
        text_service.release.set()
        assert (await running).code == "OK"
        assert (await generate(stub, key=key)).code == "OK"
    assert refused.code == "RESOURCE_EXHAUSTED"
    assert refused.details.startswith("max_requests: 1 calls")
    assert refused.retry_seconds == 1


async def test_a_key_has_so_many_tokens_at_once_and_no_more(path, new_key, text_service):
    """ "wait" has 4 tokens, and 128 to draw."""
    key = new_key(allowance=Allowance(max_tokens=200))
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        running = asyncio.create_task(generate(stub, "wait", key=key))
        await text_service.waiting.wait()
        refused = await generate(stub, "p", key=key)
        never = await generate(stub, "p", key=key, n=2)
        text_service.release.set()
        assert (await running).code == "OK"
        assert (await generate(stub, "p", key=key)).code == "OK"
    assert refused.code == never.code == "RESOURCE_EXHAUSTED"
    assert "200 tokens in flight, has 132, and asks for 129 more" in refused.details
    assert (refused.retry_seconds, never.retry_seconds) == (1, None)


async def test_a_key_has_so_many_calls_a_minute_and_no_more(path, new_key, text_service):
    key = new_key(allowance=Allowance(requests_per_minute=2))
    async with listening(text_service, access=keys(path)) as server, connected(server) as stub:
        codes = [(await generate(stub, key=key)).code for _ in range(2)]
        refused = await generate(stub, key=key)
        server.reload()
        after_reload = await generate(stub, key=key)
    assert codes == ["OK", "OK"]
    assert refused.code == after_reload.code == "RESOURCE_EXHAUSTED"
    assert 0 < refused.retry_seconds <= 30


def test_a_minutes_calls_come_back_one_by_one():
    now = [100.0]
    quotas = Quotas(lambda: now[0])
    _, secret = new_secret()
    key = ApiKey(key_id="0" * 8, digest=digest_of(secret), tenant="t")
    identity = ApiKey(
        key_id=key.key_id,
        digest=key.digest,
        tenant="t",
        allowance=Allowance(requests_per_minute=3),
    ).identity()

    def taken() -> int:
        count = 0
        while True:
            try:
                with quotas.request(identity):
                    count += 1
            except Overloaded as error:
                waits.append(error.retry_seconds)
                return count

    waits: list[float | None] = []
    assert taken() == 3
    now[0] += 20
    assert taken() == 1
    now[0] += 1
    assert taken() == 0
    now[0] += 600
    assert taken() == 3
    assert waits == pytest.approx([20, 20, 19, 20])


async def test_probes_are_open_and_the_metrics_need_a_key(path, new_key, text_service):
    plain, inspector = new_key(), new_key(permissions=frozenset({Permission.INSPECT}))
    async with listening(text_service, access=keys(path)) as server:
        assert (await fetch(server, "/healthz"))[0] == 200
        assert (await fetch(server, "/readyz"))[0] == 200
        assert (await fetch(server, "/metrics"))[0] == 401
        assert (await fetch(server, "/metrics", key="nonsense"))[0] == 401
        status, text = await fetch(server, "/metrics", key=plain)
        assert (status, "'inspect'" in text) == (403, True)
        status, text = await fetch(server, "/metrics", key=inspector)
        assert (status, "treeserve_calls" in text) == (200, True)
    async with listening(text_service, access=keys(path, open_metrics=True)) as server:
        assert (await fetch(server, "/metrics"))[0] == 200


async def test_health_is_open(path, new_key, text_service):
    new_key()
    async with (
        listening(text_service, access=keys(path)) as server,
        grpc.aio.insecure_channel(str(server.grpc_address)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("reflection", [True, False])
async def test_reflection_can_be_switched_off(text_service, reflection):
    access = AccessConfig(reflection=reflection)
    async with (
        listening(text_service, access=access) as server,
        grpc.aio.insecure_channel(str(server.grpc_address)) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        if reflection:
            assert [reply async for reply in call]
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_keys_in_the_clear_are_warned_of(path, new_key, text_service, caplog):
    new_key()
    everywhere = Address("0.0.0.0", 0)
    async with listening(text_service, access=keys(path), grpc_address=everywhere):
        assert "API keys cross the network unencrypted" in caplog.text


async def test_no_key_is_in_any_log(path, new_key, text_service, caplog):
    caplog.set_level(logging.DEBUG)
    key = new_key(name="ci")
    async with (
        listening(text_service, access=keys(path), request_log=True) as server,
        connected(server) as stub,
    ):
        for text in ("p", "crash", "invalid n"):
            await generate(stub, text, key=key)
            await generate(stub, text, key=f"{key}x")
        server.reload()
    assert "key=ci" in caplog.text
    assert key.split("_")[2] not in caplog.text
