"""Errors as OpenAI's: the status, the field and what a client does about it."""

import asyncio
import json
import socket
import ssl

import openai
import pytest
from server.certificates import Authority
from server.listening import listening

from treeserve.server.config import AccessConfig, LoadConfig, TlsFiles
from treeserve.server.identity import Allowance, Permission
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret

MODEL = "treeserve"
ASKED = {"model": MODEL, "prompt": "p", "max_tokens": 5}
TREE = {"text": "p"}


WRONG = [
    ("completions", {"prompt": "p", "n": "two"}, "n"),
    ("completions", {"prompt": "p", "best": 1}, "best"),
    ("completions", {}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": ["a", 1]}, "prompt"),
    ("completions", {"prompt": [[1], []]}, "prompt"),
    ("completions", {"prompt": ["a", ""]}, "prompt[1]"),
    ("completions", {"prompt": "invalid prompt"}, "prompt"),
    ("completions", {"prompt": "invalid options.priority"}, "priority"),
    ("completions", {"prompt": "invalid guidance.regex", "guided_regex": "a"}, "guided_regex"),
    ("completions", {"prompt": "p", "guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
    ("completions", {"prompt": "p", "suffix": "s"}, "suffix"),
    ("completions", {"prompt": "p", "echo": True, "logprobs": 1, "stream": True}, "logprobs"),
    ("completions", {"prompt": "p", "best_of": 1, "n": 2}, "best_of"),
    ("completions", {"prompt": "p", "best_of": 2, "n": 0}, "n"),
    ("completions", {"prompt": "p", "best_of": 2, "stream": True}, "best_of"),
    ("completions", {"prompt": "p", "logit_bias": {"x": 1}}, "logit_bias"),
    ("completions", {"prompt": "p", "stop": [1]}, "stop"),
    ("completions", {"prompt": "p", "temperature": 1e999}, "temperature"),
    ("completions", {"prompt": "p", "stream_options": {}}, "stream_options"),
    (
        "completions",
        {"prompt": ["a", "b"], "prompt_cache_retention": "24h"},
        "prompt_cache_retention",
    ),
    ("chat/completions", {"messages": "hello"}, "messages"),
    ("chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("chat/completions", {"messages": [{"content": "a"}]}, "messages[0].role"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content",
    ),
    ("chat/completions", {"messages": [], "top_logprobs": 1}, "top_logprobs"),
    ("chat/completions", {"messages": [], "chat_template": "x"}, "chat_template"),
    ("chat/completions", {"messages": [], "tool_choice": "required"}, "tool_choice"),
    (
        "chat/completions",
        {"messages": [], "response_format": {"type": "xml"}},
        "response_format.type",
    ),
    (
        "chat/completions",
        {"messages": [], "response_format": {"type": "json_schema"}},
        "response_format.json_schema",
    ),
    (
        "chat/completions",
        {"messages": [], "max_tokens": 1, "max_completion_tokens": 1},
        "max_tokens",
    ),
    ("responses", {"input": [{"role": "user"}]}, "input[0].content"),
    ("responses", {"input": "a", "top_logprobs": 2}, "top_logprobs"),
    ("responses", {"input": "a", "previous_response_id": "r"}, "previous_response_id"),
    (
        "responses",
        {"input": "a", "text": {"format": {"type": "json_schema"}}},
        "text.format.schema",
    ),
    ("trees", {"tree": {"branches": [{"n": "two"}]}}, "tree.branches[0].n"),
    (
        "trees",
        {"tree": {"params": {"guided_regex": "a", "guided_json": {}}}},
        "tree.params.guided_regex",
    ),
    ("forks", {"parent": {}}, "parent.request_id"),
]


def client_of(server, key: str = "none", **options) -> openai.AsyncOpenAI:
    url = f"http://{server.http_address}/v1"
    return openai.AsyncOpenAI(**{"base_url": url, "api_key": key, "max_retries": 0, **options})


async def raw(server, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; the status, the headers and the body that come back."""
    reader, writer = await asyncio.open_connection(
        server.http_address.host, server.http_address.port
    )
    writer.write(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
    status = int((await reader.readline()).split()[1])
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    data = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return status, headers, data


async def post(server, path: str, body, **headers: str) -> tuple[int, dict[str, str], dict]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\n" for name, value in given.items() if value)
    status, told, answer = await raw(server, f"POST {path} HTTP/1.1\nHost: x\n{lines}", data)
    return status, told, json.loads(answer)


@pytest.fixture
def keys(tmp_path):
    """A function that adds a key to the server's file and gives it back."""

    def make(tenant: str = "acme", **fields) -> str:
        key_id, secret = new_secret()
        add_key(
            tmp_path / "keys",
            ApiKey(key_id=key_id, digest=digest_of(secret), tenant=tenant, **fields),
        )
        return secret

    make.access = AccessConfig(api_keys=tmp_path / "keys", reload_seconds=1e6)
    return make


@pytest.mark.parametrize(("path", "asked", "param"), WRONG)
async def test_what_is_wrong_is_named_as_the_request_names_it(server, path, asked, param):
    status, _, told = await post(server, f"/v1/{path}", asked)
    assert (status, told["error"]["param"]) == (400, param)
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["message"].startswith(f"{param}: ")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"', b"\xff\xfe", b'{"prompt": "\\ud800"}'])
async def test_what_is_no_json_object_is_the_callers_fault(server, body):
    status, _, told = await post(server, "/v1/completions", body)
    assert (status, told["error"]["param"]) == (400, "body")


async def test_a_web_page_cannot_send_what_it_may_send_without_asking(server, text_service):
    for kind in ("", "text/plain", "application/x-www-form-urlencoded"):
        status, _, told = await post(server, "/v1/completions", ASKED, Content_Type=kind)
        assert (status, told["error"]["param"]) == (415, "content-type")
    assert text_service.seen == []


async def test_a_body_that_is_too_large_is_not_read(text_service):
    async with listening(text_service, load=LoadConfig(max_message_bytes=1000)) as server:
        head = "POST /v1/completions HTTP/1.1\nHost: x\nContent-Type: application/json\n"
        status, _, data = await raw(server, f"{head}Content-Length: 1001\n")
        assert status == 413
        assert json.loads(data)["error"]["param"] == "body"
        chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
        assert (await raw(server, f"{head}Transfer-Encoding: chunked\n", chunk * 2))[0] == 413
        assert (await post(server, "/v1/completions", ASKED))[0] == 200


async def test_only_the_model_that_is_served_is_found(server):
    async with client_of(server) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.completions.create(**{**ASKED, "model": "gpt-7"})
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        for name in ("gpt-7", "a/b", "line\nbreak", "a%"):
            with pytest.raises(openai.NotFoundError) as caught:
                await client.models.retrieve(name)
            assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError):
            await client.get("/nothing", cast_to=object)


async def test_an_error_within_is_logged_and_not_told(server, caplog):
    async with client_of(server) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(**{**ASKED, "prompt": "crash"})
        assert "secret" not in str(caught.value)
        stream = await client.completions.create(**{**ASKED, "prompt": "crash"}, stream=True)
        with pytest.raises(openai.APIError, match="internal error"):
            [chunk async for chunk in stream]
    assert "a secret of the server" in caplog.text


async def test_calls_without_a_valid_key_reach_nothing(keys, text_service):
    good, revoked, no_draws = keys(), keys(disabled=True), keys(permissions={Permission.INSPECT})
    async with listening(text_service, access=keys.access) as server:
        for key in ("nonsense", revoked):
            async with client_of(server, key) as client:
                with pytest.raises(openai.AuthenticationError) as caught:
                    await client.completions.create(**ASKED)
                assert caught.value.code == "invalid_api_key"
                assert caught.value.response.headers["www-authenticate"] == "Bearer"
                with pytest.raises(openai.AuthenticationError):
                    await client.models.list()
        async with client_of(server, no_draws) as client:
            with pytest.raises(openai.PermissionDeniedError, match="'generate' is needed"):
                await client.completions.create(**ASKED)
        assert text_service.seen == []
        async with client_of(server, good) as client:
            assert (await client.completions.create(**ASKED)).choices[0].text == "ab"
    assert (text_service.options[0].namespace, text_service.options[0].tenant) == ("acme", "acme")


async def test_publishing_and_retaining_need_their_permissions(keys, text_service):
    key = keys(permissions={Permission.GENERATE})
    async with listening(text_service, access=keys.access) as server, client_of(server, key) as c:
        with pytest.raises(openai.PermissionDeniedError, match="'publish'"):
            await c.post("/trees", body={"tree": TREE, "public_trunk": True}, cast_to=object)
        with pytest.raises(openai.PermissionDeniedError, match="'retain'"):
            await c.completions.create(**ASKED, extra_body={"prompt_cache_retention": "24h"})


async def test_quotas_count_calls_through_both_doors_and_say_when_to_try_again(keys, text_service):
    key = keys(allowance=Allowance(requests_per_minute=1))
    async with listening(text_service, access=keys.access) as server, client_of(server, key) as c:
        await c.completions.create(**ASKED)
        with pytest.raises(openai.RateLimitError, match="requests_per_minute") as caught:
            await c.completions.create(**ASKED)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


async def test_what_never_fits_is_not_tried_again(keys, text_service):
    key = keys(allowance=Allowance(max_tokens=3))
    async with (
        listening(text_service, access=keys.access) as server,
        client_of(server, key, max_retries=5) as client,
    ):
        with pytest.raises(openai.RateLimitError, match="max_tokens"):
            await client.completions.create(**ASKED)
    assert len(text_service.seen) == 1


async def test_a_full_server_is_tried_again_by_itself(text_service):
    async with (
        listening(text_service, load=LoadConfig(max_calls=1)) as server,
        client_of(server, max_retries=3) as client,
    ):
        asked = {**ASKED, "prompt": "wait"}
        waiting = asyncio.create_task(client.completions.create(**asked))
        await text_service.waiting.wait()
        with pytest.raises(openai.RateLimitError, match="1 calls are running"):
            await client.with_options(max_retries=0).completions.create(**ASKED)
        second = asyncio.create_task(client.completions.create(**ASKED))
        text_service.release.set()
        assert (await waiting).choices[0].text == (await second).choices[0].text == "ab"


async def test_a_server_that_loads_or_drains_is_unavailable(loading_server, text_service):
    async with client_of(loading_server) as client:
        with pytest.raises(openai.InternalServerError, match="the server is loading") as caught:
            await client.completions.create(**ASKED)
        assert caught.value.status_code == 503
        await loading_server.set_ready(text_service)
        running = asyncio.create_task(client.completions.create(**{**ASKED, "prompt": "wait"}))
        await text_service.waiting.wait()
        draining = asyncio.create_task(loading_server.drain())
        await asyncio.sleep(0)
        with pytest.raises(openai.InternalServerError, match="the server is draining"):
            await client.completions.create(**ASKED)
        text_service.release.set()
        assert (await running).choices[0].text == "ab"
        assert await draining


async def test_what_runs_at_the_very_end_is_told_so(server, text_service):
    asked = {**ASKED, "prompt": "wait"}
    async with client_of(server) as client:
        whole = asyncio.create_task(client.completions.create(**asked))
        stream = await client.completions.create(**asked, stream=True)
        chunks = aiter(stream)
        assert (await anext(chunks)).choices[0].text == "a"
        while server.num_calls < 2:
            await asyncio.sleep(0)
        await server.stop()
        with pytest.raises(openai.InternalServerError, match="shut down") as caught:
            await whole
        assert caught.value.status_code == 503
        with pytest.raises(openai.APIError, match="shut down"):
            [chunk async for chunk in chunks]


async def test_a_server_that_knows_callers_by_certificate_lets_nobody_in_here(
    text_service, tmp_path
):
    authority = Authority(tmp_path)
    own = authority.sign("localhost")
    files = TlsFiles(own.cert, own.key, client_ca=authority.cert)
    async with listening(text_service, tls=files) as server:
        assert await _status_over_tls(server, authority.cert) == 401
    assert text_service.seen == []


async def _status_over_tls(server, root) -> int:
    context = ssl.create_default_context(cafile=root)
    address = server.http_address
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    data = json.dumps(ASKED).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e9", ""])
async def test_a_deadline_that_is_none_is_named(server, text):
    status, _, told = await post(server, "/v1/completions", ASKED, X_Request_Timeout=text or " ")
    assert (status, told["error"]["param"]) == (400, "x-request-timeout")


async def test_request_ids_come_back(server):
    status, headers, _ = await post(server, "/v1/completions", ASKED, X_Request_Id="mine-7")
    assert (status, headers["x-request-id"]) == (200, "mine-7")


async def test_one_who_does_not_read_is_cut_off(text_service):
    """A stream of far more than the buffers hold, and a reader that takes nothing."""
    async with listening(text_service, load=LoadConfig(max_buffered_bytes=1 << 16)) as server:
        data = json.dumps({**ASKED, "prompt": "flood", "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        with socket.create_connection((server.http_address.host, server.http_address.port)) as s:
            s.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
            await asyncio.wait_for(text_service.closed.wait(), 60)
            while server.num_calls:
                await asyncio.sleep(0.01)
