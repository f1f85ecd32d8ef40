"""A branch goes on from any token of a sample, without its text, over a real socket."""

import re
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
from treeserve.types import (
    Finished,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
    Usage,
)

TRUNK = "What many prompts begin with is computed and stored once. " * 3


@pytest.fixture
async def service(checkpoint_of) -> AsyncIterator[RunningService]:
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=96, page_size=16)
    async with running_service(options) as running:
        yield running
        await running.assert_nothing_is_held()


async def test_a_branch_goes_on_as_the_parents_text_would(service):
    """The same tokens as from the same ids sent anew, and nothing computed again."""
    parent = await collect(
        service.stub.Generate(pb.GenerateRequest(text=TRUNK, n=2, params=parameters()))
    )
    branch = pb.ForkParent(request_id=parent.request_id, sample_index=1, num_tokens=5)
    own = parameters(8, sampling=pb.Sampling(seed=99))
    forked = await collect(service.stub.Fork(pb.ForkRequest(parent=branch, n=3, params=own)))
    ids = [*service.prompter.tokenizer.encode(TRUNK), *parent.tokens(1)[:5]]
    anew = await collect(
        service.stub.Generate(pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), n=3, params=own))
    )
    assert [forked.tokens(i) for i in range(3)] == [anew.tokens(i) for i in range(3)]
    assert len({tuple(forked.tokens(i)) for i in range(3)}) == 3
    assert forked.usage.prompt_tokens == len(ids)
    assert forked.usage.computed_tokens <= 1


async def test_a_running_sample_can_be_branched_and_goes_on(service):
    request = pb.GenerateRequest(text=TRUNK, params=long_parameters())
    alone = (await collect(service.stub.Generate(request))).tokens()
    call = service.stub.Generate(request)
    told = Told()
    async for message in call:
        told.messages.append(message)
        if len(told.tokens()) >= 20:
            break
    branch = pb.ForkParent(request_id=told.request_id, num_tokens=10)
    forked = await collect(service.stub.Fork(pb.ForkRequest(parent=branch, params=parameters(6))))
    async for message in call:
        told.messages.append(message)
    assert told.tokens() == alone
    assert forked.usage.prompt_tokens == len(TRUNK) + 10
    assert forked.usage.computed_tokens <= 1
    assert len(forked.tokens()) <= 6


async def test_without_parameters_a_branch_is_drawn_as_its_parent_but_anew(service):
    request = pb.GenerateRequest(text=TRUNK, params=parameters(30))
    parent = await collect(service.stub.Generate(request))
    branch = pb.ForkParent(request_id=parent.request_id, num_tokens=2)
    calls = [service.stub.Fork(pb.ForkRequest(parent=branch)) for _ in range(2)]
    first, second = [await collect(call) for call in calls]
    assert len({tuple(t) for t in (first.tokens(), second.tokens(), parent.tokens()[2:])}) == 3


async def test_a_branch_of_a_tree_node_and_of_a_branch(service):
    tree = pb.TreeNode(text=TRUNK, branches=[pb.TreeNode(text="a"), pb.TreeNode(text="bc", n=2)])
    tree.params.CopyFrom(parameters(6))
    told = await collect(service.stub.GenerateTree(pb.GenerateTreeRequest(tree=tree)))
    branch = pb.ForkParent(request_id=told.request_id, path=[1], sample_index=1, num_tokens=3)
    first = await collect(service.stub.Fork(pb.ForkRequest(parent=branch)))
    assert first.usage.prompt_tokens == len(TRUNK) + 2 + 3
    deeper = pb.ForkParent(request_id=first.request_id, num_tokens=1)
    second = await collect(service.stub.Fork(pb.ForkRequest(parent=deeper)))
    assert second.usage.prompt_tokens == first.usage.prompt_tokens + 1


async def test_a_character_that_the_branch_cuts_in_two_is_told_by_the_branch(service):
    """The parent draws the first byte of é, and the branch the second."""
    first, second = service.prompter.tokenizer.encode("é")
    to_first = pb.Sampling(temperature=0, logit_bias={first: 100})
    parent = await collect(
        service.stub.Generate(
            pb.GenerateRequest(text="caf", params=parameters(1, sampling=to_first))
        )
    )
    assert parent.tokens() == [first]
    to_second = pb.Sampling(temperature=0, logit_bias={second: 100})
    forked = await collect(
        service.stub.Fork(
            pb.ForkRequest(
                parent=pb.ForkParent(request_id=parent.request_id),
                params=parameters(1, sampling=to_second),
            )
        )
    )
    assert (forked.tokens(), forked.text()) == ([second], "é")


async def test_a_branch_goes_on_in_its_parents_grammar(service):
    """From any of its tokens, and from a branch of a branch."""
    guidance = pb.Guidance(regex="[ab]{6}-[cd]{6}")
    params = parameters(40, guidance=guidance)
    parent = await collect(service.stub.Generate(pb.GenerateRequest(text="x", params=params)))
    known, told = parent, parent.text()
    assert re.fullmatch("[ab]{6}-[cd]{6}", told)
    before = ""
    for num_tokens in (3, 2, 4):
        before += known.text()[:num_tokens]
        branch = pb.ForkParent(request_id=known.request_id, num_tokens=num_tokens)
        known = await collect(service.stub.Fork(pb.ForkRequest(parent=branch)))
        assert re.fullmatch("[ab]{6}-[cd]{6}", before + known.text())
    own = pb.ForkRequest(parent=branch, params=parameters(9, guidance=pb.Guidance(regex="[01]{3}")))
    assert re.fullmatch("[01]{3}", (await collect(service.stub.Fork(own))).text())


async def test_unset_the_branch_is_at_the_end(service):
    parent = await collect(
        service.stub.Generate(pb.GenerateRequest(text="ab", params=parameters(9)))
    )
    branch = pb.ForkParent(request_id=parent.request_id)
    forked = await collect(service.stub.Fork(pb.ForkRequest(parent=branch)))
    assert forked.usage.prompt_tokens == 2 + parent.last().num_tokens


async def test_a_sample_that_a_stop_string_ended_can_be_branched(service):
    request = pb.GenerateRequest(text=TRUNK, params=parameters(40))
    text = (await collect(service.stub.Generate(request))).text()
    request.params.stopping.stop.append(text[3])
    parent = await collect(service.stub.Generate(request))
    assert parent.last().stop_string == text[3]
    branch = pb.ForkParent(request_id=parent.request_id, num_tokens=parent.last().num_tokens)
    forked = await collect(service.stub.Fork(pb.ForkRequest(parent=branch, params=parameters(4))))
    assert forked.usage.prompt_tokens == len(TRUNK) + parent.last().num_tokens


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"num_tokens": 400}, grpc.StatusCode.OUT_OF_RANGE, "parent.num_tokens"),
        ({"sample_index": 1}, grpc.StatusCode.INVALID_ARGUMENT, "parent.sample_index"),
        ({"path": [0]}, grpc.StatusCode.INVALID_ARGUMENT, "parent.path"),
        ({"request_id": "other"}, grpc.StatusCode.NOT_FOUND, None),
        ({"request_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "parent.request_id"),
    ],
)
async def test_what_cannot_be_branched_is_named(service, change, code, path):
    parent = await collect(
        service.stub.Generate(pb.GenerateRequest(text="ab", params=parameters(3)))
    )
    branch = pb.ForkParent(**{"request_id": parent.request_id, **change})
    error = await error_of(service.stub.Fork(pb.ForkRequest(parent=branch)))
    assert error.code() is code
    if path is not None:
        assert bad_field_of(error) == path


async def test_a_branch_beyond_the_models_context_is_refused(service):
    params = parameters(20, stopping=pb.Stopping(ignore_eos=True))
    parent = await collect(
        service.stub.Generate(pb.GenerateRequest(text="x" * 1004, params=params))
    )
    branch = pb.ForkParent(request_id=parent.request_id)
    error = await error_of(service.stub.Fork(pb.ForkRequest(parent=branch)))
    assert (error.code(), bad_field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "prompt")


async def test_another_namespaces_requests_are_unknown(service):
    mine = RequestOptions(request_id="r", namespace="mine")
    stream = service.text_service.generate("ab", options=mine)
    assert [event async for event in stream]
    theirs = RequestOptions(namespace="theirs")
    with pytest.raises(Exception, match="no request 'r'"):
        service.text_service.fork(SampleName("r"), options=theirs)
    with pytest.raises(Exception, match="no request 'r'"):
        service.text_service.abort("r", namespace="theirs")
    same_id = RequestOptions(request_id="r", namespace="theirs")
    assert [event async for event in service.text_service.generate("a", options=same_id)]


async def drawn_usages(stream) -> list[Usage]:
    return [event.usage async for event in stream if isinstance(event, Finished)]


async def test_a_public_trunk_is_shared_by_all_namespaces_and_nothing_else(service):
    """The tokens tell who computed them."""
    tree = PromptTree(TRUNK, branches=(PromptTree("private", params=SamplingParams(max_tokens=2)),))
    text_service, length = service.text_service, len(TRUNK)
    for name, computed in (("a", length + 7), ("b", 7)):
        options = RequestOptions(request_id="r", namespace=name, public_trunk=True)
        [usage] = await drawn_usages(text_service.generate_tree(tree, options=options))
        assert usage.computed_tokens == computed
    [usage] = await drawn_usages(
        text_service.generate_tree(tree, options=RequestOptions(namespace="c"))
    )
    assert usage.computed_tokens == length + 7
    branch = text_service.fork(SampleName("r", (0,)), 1, options=RequestOptions(namespace="a"))
    [usage] = await drawn_usages(branch)
    assert usage.computed_tokens <= 1
