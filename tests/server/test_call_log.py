"""The line that every call leaves in the log."""

import json
import logging

import pytest
from server.listening import connected, generate, listening

from treeserve.pb import generation_pb2 as pb
from treeserve.server import endings
from treeserve.server.call_log import open_record, text_of
from treeserve.server.config import AccessConfig
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret
from treeserve.server.log_format import JsonFormatter
from treeserve.types import Chat, Message, PromptTree

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def lines(caplog):
    """A function that gives the lines so far, as the server writes them."""
    caplog.set_level(logging.INFO, "treeserve.server.call_log")

    def read() -> list[dict[str, object]]:
        own = [entry for entry in caplog.records if entry.name == "treeserve.server.call_log"]
        return [json.loads(JsonFormatter().format(entry)) for entry in own]

    return read


async def test_a_call_leaves_one_line_that_says_what_it_was(lines, text_service, tmp_path):
    key_id, secret = new_secret()
    path = tmp_path / "keys"
    add_key(path, ApiKey(key_id=key_id, digest=digest_of(secret), tenant="acme", name="ci"))
    access = AccessConfig(api_keys=path)
    ids = (("x-request-id", "r-1"), ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"))
    async with (
        listening(text_service, access=access, request_log=True) as server,
        connected(server) as stub,
    ):
        outcome = await generate(stub, "secret text", key=secret, metadata=ids, n=2)
        await generate(stub, "secret text", key="wrong")
        await generate(stub, "invalid n", key=secret)
        await generate(stub, "crash", key=secret)
    assert outcome.metadata["x-request-id"] == "r-1"
    first, *others = lines()
    assert first.pop("queue_seconds") == 0
    assert 0 <= first.pop("first_token_seconds") <= first.pop("total_seconds")
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "treeserve.server.call_log",
        "message": "call",
        "request_id": "r-1",
        "trace_id": TRACE,
        "tenant": "acme",
        "key": "ci",
        "method": "Generate",
        "code": "OK",
        "prompts": 1,
        "prompt_tokens": 6,
        "cached_tokens": 3,
        "shared_tokens": 2,
        "computed_tokens": 1,
        "drawn_tokens": 4,
    }
    assert [line["code"] for line in others] == ["UNAUTHENTICATED", "INVALID_ARGUMENT", "INTERNAL"]
    assert "tenant" not in others[0]


async def test_no_text_is_in_any_log_unless_it_is_asked_for(caplog, text_service):
    caplog.set_level(logging.DEBUG)
    texts = ("secret", "invalid secret", "crash")
    async with listening(text_service, request_log=True) as server, connected(server) as stub:
        for text in texts:
            await generate(stub, text)
    assert caplog.text.count("call request_id=") == 3
    assert "prompt=" not in caplog.text
    assert "secret of the server" in caplog.text
    assert caplog.text.replace("a secret of the server", "").count("secret") == 0


async def test_prompts_are_logged_where_that_is_asked_for(lines, text_service):
    async with (
        listening(text_service, request_log=True, log_prompts=True) as server,
        connected(server) as stub,
    ):
        await generate(stub, "the text")
        tree = pb.TreeNode(text="trunk", branches=[pb.TreeNode(text="leaf")])
        async for _ in stub.GenerateTree(pb.GenerateTreeRequest(tree=tree)):
            pass
    assert [line["prompt"] for line in lines()] == [
        "the text",
        {"text": "trunk", "branches": [{"text": "leaf"}]},
    ]


@pytest.mark.parametrize("text", ["invalid n", "crash"])
async def test_whoever_hears_that_a_call_has_failed_finds_its_line(
    lines, text_service, text, monkeypatch
):
    told, abort = [], endings._abort

    async def look_and_abort(*about) -> None:
        told.append(len(lines()))
        await abort(*about)

    monkeypatch.setattr(endings, "_abort", look_and_abort)
    async with listening(text_service, request_log=True) as server, connected(server) as stub:
        assert (await generate(stub, text)).code != "OK"
    assert told == [1]


async def test_calls_leave_no_line_unless_it_is_asked_for(lines, text_service):
    async with listening(text_service) as server, connected(server) as stub:
        assert (await generate(stub, "p")).code == "OK"
    assert lines() == []


@pytest.mark.parametrize("text", ["p", "invalid n", "crash"])
async def test_every_call_is_told_its_id(text_service, text):
    async with listening(text_service) as server, connected(server) as stub:
        made = [(await generate(stub, text)).metadata["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2


@pytest.mark.parametrize("odd", ["", "a b", "x" * 129, "line\nbreak", "é"])
def test_an_odd_request_id_is_replaced(odd):
    assert open_record("m", [("x-request-id", odd)]).request_id != odd


@pytest.mark.parametrize(
    "odd", ["", "00", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{TRACE.upper()}-1-1", f"{TRACE}"]
)
def test_an_odd_trace_is_none(odd):
    assert open_record("m", [("traceparent", odd)]).trace_id == ""


def test_token_ids_are_shown_as_they_are():
    assert text_of((1, 2)) == [1, 2]
    assert text_of(PromptTree("a")) == {"text": "a"}
    assert text_of(PromptTree(token_ids=(1, 2), n=3)) == {"token_ids": [1, 2]}


def test_chats_are_shown_turn_by_turn():
    turns = (Message("system", "be brief"), Message("user", "hi"))
    shown = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert text_of(Chat(turns)) == shown
    tree = PromptTree(messages=turns[:1], branches=(PromptTree(messages=turns[1:]),))
    assert text_of(tree) == {"messages": shown[:1], "branches": [{"messages": shown[1:]}]}


def test_an_exception_is_in_its_line():
    try:
        raise ValueError("broken")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    entry = logging.LogRecord("name", logging.ERROR, "file", 1, "it %s", ("failed",), info)
    line = json.loads(JsonFormatter().format(entry))
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert "ValueError: broken" in line["exception"]
