"""Calls that run while their API key is revoked: they end, and nobody else's does."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from server.listening import bearer, connected, listening, outcome_of

from treeserve.pb import generation_pb2 as pb
from treeserve.server.config import AccessConfig
from treeserve.server.key_file import add_key, revoke_key
from treeserve.server.keys import ApiKey, digest_of, new_secret


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "keys.jsonl"


def new_key(path: Path, **fields) -> str:
    key_id, secret = new_secret()
    add_key(path, ApiKey(key_id=key_id, digest=digest_of(secret), tenant="acme", **fields))
    return secret


def start(stub, key: str) -> "asyncio.Task":
    """A call that goes on until the service is told to release it."""
    call = stub.Generate(pb.GenerateRequest(text="wait"), metadata=bearer(key), timeout=60)
    return asyncio.create_task(outcome_of(call))


async def test_a_revoked_key_ends_its_running_streams_and_no_others(path, text_service, caplog):
    access = AccessConfig(api_keys=path, reload_seconds=1e6)
    revoked, other = new_key(path), new_key(path)
    async with listening(text_service, access=access) as server, connected(server) as stub:
        doomed = start(stub, revoked)
        await text_service.waiting.wait()
        text_service.waiting.clear()
        unharmed = start(stub, other)
        await text_service.waiting.wait()
        revoke_key(path, revoked.split("_")[1])
        server.reload(only_if_changed=True)
        outcome = await doomed
        assert (outcome.code, outcome.text) == ("UNAUTHENTICATED", "a")
        assert outcome.details == "the API key of this call is no longer valid"
        assert "x-request-id" in outcome.metadata
        assert text_service.closed.is_set(), "its work goes on"
        assert server.num_calls == 1
        text_service.release.set()
        assert (await unharmed).code == "OK"
    assert "ended 1 calls whose API keys are no longer valid" in caplog.text


async def test_a_revoked_key_ends_what_runs_over_http_too(path, text_service):
    access = AccessConfig(api_keys=path, reload_seconds=1e6)
    key = new_key(path)
    async with listening(text_service, access=access) as server:
        address = f"http://{server.http_address}/v1/completions"
        body = {"prompt": "wait", "stream": True}
        headers = {"authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(timeout=60) as client,
            client.stream("POST", address, json=body, headers=headers) as answer,
        ):
            assert answer.status_code == 200
            await text_service.waiting.wait()
            revoke_key(path, key.split("_")[1])
            server.reload(only_if_changed=True)
            lines = [line async for line in answer.aiter_lines() if line]
        assert "the API key of this call is no longer valid" in lines[-1]
        assert text_service.closed.is_set(), "its work goes on"
        assert server.num_calls == 0


async def test_streams_go_on_where_a_reload_changes_nothing_of_theirs(path, text_service):
    access = AccessConfig(api_keys=path, reload_seconds=1e6)
    key = new_key(path)
    async with listening(text_service, access=access) as server, connected(server) as stub:
        running = start(stub, key)
        await text_service.waiting.wait()
        new_key(path)
        server.reload()
        path.write_text("{")
        server.reload()
        text_service.release.set()
        assert (await running).code == "OK"


@pytest.mark.parametrize("change", ["deleted", "expired", "another tenant's"])
async def test_a_key_that_is_gone_expired_or_given_away_ends_its_streams(
    path, text_service, change
):
    access = AccessConfig(api_keys=path, reload_seconds=1e6)
    key = new_key(path)
    async with listening(text_service, access=access) as server, connected(server) as stub:
        running = start(stub, key)
        await text_service.waiting.wait()
        record = json.loads(path.read_text())
        ended = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
        changed = {"expired": {"expires": ended}, "another tenant's": {"tenant": "other"}}
        path.write_text("" if change == "deleted" else json.dumps(record | changed[change]) + "\n")
        server.reload()
        assert (await running).code == "UNAUTHENTICATED"
