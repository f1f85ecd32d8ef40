"""The clients, against a server with a scripted text service."""

import asyncio
import socket
from dataclasses import fields

import pytest

from treeserve.client import AsyncClient, Client, RemoteError
from treeserve.errors import InvalidRequest
from treeserve.types import (
    Chat,
    Delta,
    Finished,
    Guidance,
    Message,
    PromptTree,
    SamplingParams,
)

ALL_PARAMS = SamplingParams(
    temperature=0.7,
    top_k=5,
    top_p=0.9,
    min_p=0.1,
    seed=2**64 - 1,
    n=2,
    max_tokens=9,
    stop=("x", "é"),
    stop_token_ids=(3,),
    ignore_eos=True,
    logprobs=0,
    repetition_penalty=1.25,
    presence_penalty=0.5,
    frequency_penalty=-0.25,
    logit_bias={3: -100.0, 9: 1.5},
    include_stop=True,
    min_tokens=2,
    time_limit_seconds=1.5,
    prompt_logprobs=3,
    guidance=Guidance("choice", ("a", "b")),
)
CHAT = Chat((Message("system", "be brief"), Message("user", "hi")))
TREE = PromptTree(
    "a", n=0, params=ALL_PARAMS, branches=(PromptTree("b", (PromptTree("c", n=7),)), PromptTree(""))
)


async def test_every_parameter_reaches_the_text_service(server, client, text_service):
    async for _ in client.generate("é", ALL_PARAMS):
        pass
    async for _ in client.generate((1, 2)):
        pass
    for guidance in (Guidance("json_schema", "{}"), Guidance("regex", "a"), None):
        async for _ in client.generate(CHAT, SamplingParams(guidance=guidance)):
            pass
    assert text_service.seen[:2] == [("é", ALL_PARAMS), ((1, 2), SamplingParams())]
    assert [prompt for prompt, _ in text_service.seen[2:]] == [CHAT] * 3
    assert [params.guidance.kind for _, params in text_service.seen[2:4]] == [
        "json_schema",
        "regex",
    ]


async def test_the_client_sets_every_parameter(server, client, text_service):
    """A parameter that is added has to be added to the client too."""
    defaults = SamplingParams()
    same = [
        f.name
        for f in fields(ALL_PARAMS)
        if getattr(ALL_PARAMS, f.name) == getattr(defaults, f.name)
    ]
    assert same == []


async def test_nodes_of_any_kind_arrive(server, client, text_service):
    branch = PromptTree(messages=CHAT.messages)
    for tree in (PromptTree("", (branch,)), PromptTree(token_ids=(1, 2), n=3)):
        async for _ in client.generate_tree(tree):
            pass
    [(first, _), (second, _)] = text_service.seen
    assert first.branches == (branch,)
    assert (second.token_ids, second.n) == ((1, 2), 3)


async def test_trees_arrive_as_they_are(server, client, text_service):
    items = [item async for item in client.generate_tree(TREE)]
    [(tree, _)] = text_service.seen
    assert tree.branches == TREE.branches
    assert (tree.text, tree.n) == ("a", 0)
    assert {item.path for item in items} == {(0,), (1, 0)}


async def test_the_blocking_client_yields_the_same_items(server, client, text_service):
    def collect() -> list[Delta | Finished]:
        with Client(str(server.grpc_address)) as blocking:
            return [*blocking.generate("p", ALL_PARAMS), *blocking.generate_tree(TREE)]

    expected = [item async for item in client.generate("p", ALL_PARAMS)]
    expected += [item async for item in client.generate_tree(TREE)]
    assert await asyncio.to_thread(collect) == expected


async def test_closing_a_blocking_stream_cancels_it(server, text_service):
    def take_one() -> None:
        with Client(str(server.grpc_address)) as blocking:
            stream = blocking.generate("wait")
            assert next(stream).text == "a"
            stream.close()

    await asyncio.to_thread(take_one)
    await asyncio.wait_for(text_service.closed.wait(), 60)


async def test_errors_are_those_of_the_python_api(server, client):
    with pytest.raises(InvalidRequest) as caught:
        await anext(client.generate("invalid top_k"))
    assert (caught.value.field, caught.value.description) == ("top_k", "must be right")

    def fail() -> None:
        with Client(str(server.grpc_address)) as blocking:
            next(blocking.generate("invalid tree.branches[2].prompt"))

    with pytest.raises(InvalidRequest) as caught:
        await asyncio.to_thread(fail)
    assert caught.value.field == "tree.branches[2].prompt"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        (SamplingParams(n=-1), "n"),
        (SamplingParams(seed=2**64), "seed"),
        (SamplingParams(stop=("ok", "\ud800")), "stop[1]"),
        (SamplingParams(temperature="hot"), "temperature"),
        (SamplingParams(logit_bias={-1: 2.0}), "logit_bias"),
        (SamplingParams(guidance=Guidance("regex", "\ud800")), "guidance.regex"),
        (SamplingParams(guidance=Guidance("choice", ("a", 1))), "guidance.choice[1]"),
    ],
)
async def test_what_fits_no_message_is_refused_without_a_call(client, params, field):
    with pytest.raises(InvalidRequest) as caught:
        await anext(client.generate("p", params))
    assert caught.value.field == field


async def test_a_timeout_is_a_remote_error(server, client):
    with pytest.raises(RemoteError) as caught:
        async for _ in client.generate("wait", timeout_seconds=0.05):
            pass
    assert caught.value.code == "DEADLINE_EXCEEDED"


async def test_no_server_is_a_remote_error():
    with socket.socket() as taken:
        # Nobody else is given the port, and nobody listens.
        taken.bind(("127.0.0.1", 0))
        async with AsyncClient(f"127.0.0.1:{taken.getsockname()[1]}") as client:
            with pytest.raises(RemoteError, match="UNAVAILABLE"):
                await anext(client.generate("p"))
