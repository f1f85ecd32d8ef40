"""Messages and the Python API say the same things."""

import pytest

from treeserve.errors import InvalidRequest
from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents
from treeserve.server.convert import (
    proto_path,
    read_generate,
    read_generate_tree,
    write_generate,
    write_generate_tree,
)
from treeserve.types import (
    Delta,
    FinishReason,
    PromptTree,
    SamplingParams,
    TokenLogprob,
    Usage,
)

ALL_PARAMS = pb.Parameters(
    sampling=pb.Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, seed=2**64 - 1),
    stopping=pb.Stopping(max_tokens=9, stop=["x", "é"], stop_token_ids=[3], ignore_eos=True),
    output=pb.Output(logprobs=2),
)


def test_what_is_unset_has_the_defaults_of_the_python_api():
    assert read_generate(pb.GenerateRequest(text="a").SerializeToString()) == (
        "a",
        SamplingParams(),
    )


def test_every_parameter_arrives():
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[4, 5]), n=3, params=ALL_PARAMS)
    prompt, params = read_generate(request.SerializeToString())
    assert prompt == (4, 5)
    assert params == SamplingParams(
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        seed=2**64 - 1,
        n=3,
        max_tokens=9,
        stop=("x", "é"),
        stop_token_ids=(3,),
        ignore_eos=True,
        logprobs=2,
    )


def test_explicit_zeros_are_not_defaults():
    sampling = pb.Sampling(temperature=0, seed=0)
    request = pb.GenerateRequest(
        text="a", n=0, params=pb.Parameters(sampling=sampling, output=pb.Output(logprobs=0))
    )
    _, params = read_generate(request.SerializeToString())
    assert (params.temperature, params.seed, params.n, params.logprobs) == (0, 0, 0, 0)


def test_a_request_without_a_prompt_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        read_generate(b"")
    assert caught.value.field == "prompt"


def test_a_tree_keeps_its_shape_and_what_its_nodes_leave_out():
    tree = pb.TreeNode(
        text="a", params=ALL_PARAMS, branches=[pb.TreeNode(text="b", n=2), pb.TreeNode(text="c")]
    )
    read = read_generate_tree(pb.GenerateTreeRequest(tree=tree).SerializeToString())
    assert read.params is not None
    assert read.params.max_tokens == 9
    assert read.n is None
    assert read.branches == (PromptTree("b", n=2), PromptTree("c"))


def test_a_missing_tree_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        read_generate_tree(b"")
    assert caught.value.field == "tree"


def nested(levels: int) -> bytes:
    node = pb.TreeNode(text="leaf", params=ALL_PARAMS)
    for _ in range(levels):
        node = pb.TreeNode(text="x", branches=[node])
    return pb.GenerateTreeRequest(tree=node).SerializeToString()


def test_a_tree_has_64_levels_of_branches_at_most():
    read_generate_tree(nested(64))
    with pytest.raises(InvalidRequest, match="is deeper than 64 levels"):
        read_generate_tree(nested(65))


def test_deltas_are_written_in_full():
    logprob = TokenLogprob(7, -0.5, ((7, -0.5), (8, -1.5)))
    delta = Delta((1, 2), 3, "text", (7,), (logprob,), FinishReason.LENGTH)
    events = PromptEvents((1, 2), [delta, delta])
    response = write_generate_tree(events)
    assert list(response.path) == [1, 2]
    assert not response.HasField("usage")
    assert response.samples == write_generate(events).samples
    assert response.samples[0] == response.samples[1]
    assert response.samples[0] == pb.SampleDelta(
        index=3,
        text="text",
        token_ids=[7],
        finish_reason=pb.FINISH_REASON_LENGTH,
        logprobs=[
            pb.TokenLogprob(
                token_id=7,
                logprob=-0.5,
                top=[
                    pb.TopLogprob(token_id=7, logprob=-0.5),
                    pb.TopLogprob(token_id=8, logprob=-1.5),
                ],
            )
        ],
    )


def test_every_finish_reason_has_its_value():
    deltas = [Delta((), 0, "", (), None, reason) for reason in (None, *FinishReason)]
    response = write_generate(PromptEvents((), deltas))
    assert {entry.finish_reason for entry in response.samples} == set(pb.FinishReason.values())


def test_usage_is_written_in_full():
    response = write_generate_tree(PromptEvents((4,), usage=Usage(6, 1, 2, 3, 9)))
    assert list(response.path) == [4]
    assert response.usage == pb.Usage(
        prompt_tokens=6,
        cached_tokens=1,
        shared_in_flight_tokens=2,
        computed_tokens=3,
        completion_tokens=9,
    )


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("n", "n"),
        ("prompt", "prompt"),
        ("prompt[3]", "prompt[3]"),
        ("max_tokens", "params.stopping.max_tokens"),
        ("stop[2]", "params.stopping.stop[2]"),
        ("tree", "tree"),
        ("tree.n", "tree.n"),
        ("tree.branches[1].n", "tree.branches[1].n"),
        ("tree.branches[1].prompt", "tree.branches[1].text"),
        ("tree.top_p", "tree.params.sampling.top_p"),
        ("tree.branches[0].branches[1].text", "tree.branches[0].branches[1].text"),
    ],
)
def test_fields_are_named_as_in_the_messages(field, path):
    assert proto_path(field) == path
