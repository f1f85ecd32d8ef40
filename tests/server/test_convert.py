"""Messages and the Python API say the same things."""

import pytest

from treeserve.errors import InvalidRequest
from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents
from treeserve.server.convert import (
    AbortCall,
    DetokenizeCall,
    ForkCall,
    GenerateCall,
    TokenizeCall,
    proto_path,
    read_abort,
    read_count_tokens,
    read_detokenize,
    read_fork,
    read_generate,
    read_generate_tree,
    read_tokenize,
)
from treeserve.server.respond import GenerateWriter, TreeWriter, write_counts
from treeserve.types import (
    Chat,
    Delta,
    Echo,
    FinishReason,
    Guidance,
    Message,
    OutputOptions,
    Progress,
    PromptTree,
    RequestOptions,
    SampleName,
    SampleTimings,
    SamplingParams,
    Started,
    TokenCounts,
    TokenLogprob,
    Usage,
)

PARAMS = pb.Parameters(
    sampling=pb.Sampling(
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        seed=2**64 - 1,
        repetition_penalty=1.25,
        presence_penalty=0.5,
        frequency_penalty=-0.25,
        logit_bias={3: -100.0, 9: 1.5},
    ),
    stopping=pb.Stopping(
        max_tokens=9,
        stop=["x", "é"],
        stop_token_ids=[3],
        ignore_eos=True,
        include_stop=True,
        min_tokens=2,
        time_limit_seconds=1.5,
    ),
    output=pb.Output(
        logprobs=2, prompt_logprobs=4, token_ids=False, usage=False, echo=True, progress=True
    ),
    guidance=pb.Guidance(choice=pb.Choice(choices=["a", "b"])),
)
READ_PARAMS = SamplingParams(
    temperature=0.7,
    top_k=5,
    top_p=0.9,
    min_p=0.1,
    seed=2**64 - 1,
    repetition_penalty=1.25,
    presence_penalty=0.5,
    frequency_penalty=-0.25,
    logit_bias={3: -100.0, 9: 1.5},
    max_tokens=9,
    stop=("x", "é"),
    stop_token_ids=(3,),
    ignore_eos=True,
    include_stop=True,
    min_tokens=2,
    time_limit_seconds=1.5,
    logprobs=2,
    prompt_logprobs=4,
    guidance=Guidance("choice", ("a", "b")),
)
READ_OUTPUT = OutputOptions(token_ids=False, usage=False, echo=True, progress=True)
OPTIONS = pb.RequestOptions(request_id="mine", priority=-3, group="batch 7")
READ_OPTIONS = RequestOptions(request_id="mine", priority=-3, group="batch 7")
CHAT = pb.Chat(messages=[pb.Message(role="user", content="hi")])
READ_CHAT = Chat((Message("user", "hi"),))


def test_the_messages_above_set_every_field():
    """A field that is added to the messages has to be added to the conversion too."""
    for section in (PARAMS.sampling, PARAMS.stopping, PARAMS.output, OPTIONS):
        assert len(section.ListFields()) == len(section.DESCRIPTOR.fields)


def test_what_is_unset_has_the_defaults_of_the_python_api():
    call = read_generate(pb.GenerateRequest(text="a").SerializeToString())
    assert call == GenerateCall("a", SamplingParams(), OutputOptions(), RequestOptions())


def test_every_parameter_arrives():
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[4, 5]), params=PARAMS, options=OPTIONS)
    call = read_generate(request.SerializeToString())
    assert call == GenerateCall((4, 5), READ_PARAMS, READ_OUTPUT, READ_OPTIONS)
    request.n = 3
    assert read_generate(request.SerializeToString()).params.n == 3


@pytest.mark.parametrize("kind", ["json_schema", "regex", "grammar"])
def test_every_kind_of_guidance_arrives(kind):
    params = pb.Parameters(guidance=pb.Guidance(**{kind: "{}"}))
    call = read_generate(pb.GenerateRequest(text="a", params=params).SerializeToString())
    assert call.params.guidance == Guidance(kind, "{}")


def test_guidance_without_a_guide_is_refused():
    params = pb.Parameters(guidance=pb.Guidance())
    with pytest.raises(InvalidRequest) as caught:
        read_generate(pb.GenerateRequest(text="a", params=params).SerializeToString())
    assert proto_path(caught.value.field) == "params.guidance.guide"


def test_a_chat_arrives():
    call = read_generate(pb.GenerateRequest(chat=CHAT).SerializeToString())
    assert call.prompt == READ_CHAT


def test_explicit_zeros_are_not_defaults():
    sampling = pb.Sampling(temperature=0, seed=0, repetition_penalty=0)
    stopping = pb.Stopping(time_limit_seconds=0)
    params = pb.Parameters(sampling=sampling, stopping=stopping, output=pb.Output(logprobs=0))
    request = pb.GenerateRequest(
        text="a", n=0, params=params, options=pb.RequestOptions(request_id="")
    )
    call = read_generate(request.SerializeToString())
    read = call.params
    assert (read.temperature, read.seed, read.n, read.logprobs) == (0, 0, 0, 0)
    assert (read.repetition_penalty, read.time_limit_seconds) == (0, 0)
    assert call.options.request_id == ""


def test_a_request_without_a_prompt_is_refused():
    for read in (read_generate, read_tokenize, read_count_tokens):
        with pytest.raises(InvalidRequest) as caught:
            read(b"")
        assert caught.value.field == "prompt"


def test_a_tree_keeps_its_shape_and_what_its_nodes_leave_out():
    tree = pb.TreeNode(
        text="a", params=PARAMS, branches=[pb.TreeNode(text="b", n=2), pb.TreeNode(text="c")]
    )
    call = read_generate_tree(
        pb.GenerateTreeRequest(tree=tree, options=OPTIONS).SerializeToString()
    )
    assert call.options == READ_OPTIONS
    public = pb.GenerateTreeRequest(tree=tree, public_trunk=True).SerializeToString()
    assert read_generate_tree(public).options == RequestOptions(public_trunk=True)
    assert call.tree.params == READ_PARAMS
    assert call.tree.output == READ_OUTPUT
    assert call.tree.n is None
    assert call.tree.branches == (PromptTree("b", n=2), PromptTree("c"))


def test_nodes_can_be_token_ids_or_messages():
    tree = pb.TreeNode(token_ids=pb.TokenIds(ids=[1, 2]), branches=[pb.TreeNode(chat=CHAT)])
    call = read_generate_tree(pb.GenerateTreeRequest(tree=tree).SerializeToString())
    assert call.tree.token_ids == (1, 2)
    assert call.tree.branches[0].messages == READ_CHAT.messages


def test_a_missing_tree_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        read_generate_tree(b"")
    assert caught.value.field == "tree"


def nested(levels: int) -> bytes:
    node = pb.TreeNode(text="leaf", params=PARAMS)
    for _ in range(levels):
        node = pb.TreeNode(text="x", branches=[node])
    return pb.GenerateTreeRequest(tree=node).SerializeToString()


def test_a_tree_has_64_levels_of_branches_at_most():
    read_generate_tree(nested(64))
    with pytest.raises(InvalidRequest, match="is deeper than 64 levels"):
        read_generate_tree(nested(65))


def test_a_fork_arrives_in_full():
    parent = pb.ForkParent(request_id="r", path=[1, 0], sample_index=2, num_tokens=5)
    request = pb.ForkRequest(parent=parent, n=4, params=PARAMS, options=OPTIONS)
    assert read_fork(request.SerializeToString()) == ForkCall(
        SampleName("r", (1, 0), 2), 5, 4, READ_PARAMS, READ_OUTPUT, READ_OPTIONS
    )


def test_a_fork_leaves_open_what_is_unset():
    request = pb.ForkRequest(parent=pb.ForkParent(request_id="r"))
    assert read_fork(request.SerializeToString()) == ForkCall(
        SampleName("r"), None, 1, None, None, RequestOptions()
    )
    with pytest.raises(InvalidRequest, match=r"parent.request_id: must be given"):
        read_fork(b"")


def test_an_abort_arrives_in_full():
    request = pb.AbortRequest(request_id="r", path=[3], sample_index=0)
    assert read_abort(request.SerializeToString()) == AbortCall("r", (3,), 0)
    assert read_abort(pb.AbortRequest(request_id="r").SerializeToString()) == AbortCall(
        "r", (), None
    )
    with pytest.raises(InvalidRequest, match="request_id: must be given"):
        read_abort(b"")


def test_text_to_tokenise_begins_with_special_tokens_unless_told():
    read = read_tokenize(pb.TokenizeRequest(text="a").SerializeToString())
    assert read == TokenizeCall("a", special_tokens=True)
    request = pb.TokenizeRequest(chat=CHAT, special_tokens=False)
    assert read_tokenize(request.SerializeToString()) == TokenizeCall(READ_CHAT, False)
    detokenize = pb.DetokenizeRequest(token_ids=[1, 2], special_tokens=True)
    assert read_detokenize(detokenize.SerializeToString()) == DetokenizeCall((1, 2), True)


def test_anything_that_can_be_generated_from_can_be_counted():
    prompts = [
        (pb.CountTokensRequest(text="a"), "a"),
        (pb.CountTokensRequest(token_ids=pb.TokenIds(ids=[7])), (7,)),
        (pb.CountTokensRequest(chat=CHAT), READ_CHAT),
        (pb.CountTokensRequest(tree=pb.TreeNode(text="a", n=1)), PromptTree("a", n=1)),
    ]
    for request, prompt in prompts:
        assert read_count_tokens(request.SerializeToString()) == prompt
    response = write_counts(TokenCounts(5, 12, {(): 3, (0, 1): 4}))
    assert (response.num_tokens, response.num_unshared_tokens) == (5, 12)
    assert [(tuple(p.path), p.num_tokens) for p in response.prompts] == [((), 3), ((0, 1), 4)]


STARTED = Started((1, 2), "r", 9, 3, OutputOptions(), Echo("abc", (1, 2, 3)))


def test_deltas_are_written_in_full():
    logprob = TokenLogprob(7, -0.5, ((7, -0.5), (8, -1.5)), 2)
    delta = Delta(
        (1, 2),
        3,
        "text",
        (7,),
        (logprob,),
        FinishReason.LENGTH,
        None,
        6,
        SampleTimings(
            queue_seconds=0.5,
            first_token_seconds=1.0,
            total_seconds=4.0,
            seconds_per_token=0.25,
        ),
    )
    events = PromptEvents((1, 2), [delta, delta])
    response = TreeWriter().write(events)
    assert list(response.path) == [1, 2]
    assert not response.HasField("usage")
    assert response.samples == GenerateWriter().write(events).samples
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
                rank=2,
            )
        ],
        num_tokens=6,
        timings=pb.SampleTimings(
            queue_seconds=0.5, first_token_seconds=1, total_seconds=4, seconds_per_token=0.25
        ),
    )


def test_what_ended_a_sample_is_written():
    deltas = [
        Delta((), 0, "", (), None, FinishReason.STOP, "END"),
        Delta((), 1, "", (), None, FinishReason.STOP, 0),
        Delta((), 2, "", (), None, FinishReason.LENGTH),
    ]
    samples = GenerateWriter().write(PromptEvents((), deltas)).samples
    assert [entry.WhichOneof("stop") for entry in samples] == ["stop_string", "stop_token_id", None]
    assert samples[0].stop_string == "END"


def test_every_finish_reason_has_its_value():
    deltas = [Delta((), 0, "", (), None, reason) for reason in (None, *FinishReason)]
    response = GenerateWriter().write(PromptEvents((), deltas))
    assert {entry.finish_reason for entry in response.samples} == set(pb.FinishReason.values())


@pytest.mark.parametrize("writer", [GenerateWriter, TreeWriter])
def test_what_is_told_first_is_written_in_full(writer):
    events = PromptEvents((1, 2), started=STARTED, progress=Progress((1, 2), 2, 3))
    response = writer().write(events)
    assert response.started == pb.Started(
        request_id="r", seed=9, prompt_tokens=3, prompt_text="abc", prompt_token_ids=[1, 2, 3]
    )
    assert response.progress == pb.Progress(computed_tokens=2, prompt_tokens=3)


USAGE = Usage(6, 1, 2, 3, 9, 4)


def test_usage_is_written_in_full():
    response = TreeWriter().write(PromptEvents((4,), usage=USAGE))
    assert list(response.path) == [4]
    assert response.usage == pb.Usage(
        prompt_tokens=6,
        cached_tokens=1,
        shared_in_flight_tokens=2,
        computed_tokens=3,
        completion_tokens=9,
        recomputed_tokens=4,
    )
    assert TreeWriter().write(PromptEvents((), tree_usage=USAGE)).tree_usage == response.usage


def test_token_ids_and_usage_are_left_out_of_prompts_that_do_not_want_them():
    quiet = Started((0,), "r", 9, 3, OutputOptions(token_ids=False, usage=False))
    writer = TreeWriter()
    writer.write(PromptEvents((0,), started=quiet))
    delta = Delta((0,), 0, "a", (1,), num_tokens=1)
    response = writer.write(PromptEvents((0,), [delta], USAGE))
    assert (list(response.samples[0].token_ids), response.HasField("usage")) == ([], False)
    assert (response.samples[0].text, response.samples[0].num_tokens) == ("a", 1)
    other = writer.write(PromptEvents((1,), [delta], USAGE))
    assert (list(other.samples[0].token_ids), other.HasField("usage")) == ([1], True)


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("n", "n"),
        ("prompt", "prompt"),
        ("prompt[3]", "prompt[3]"),
        ("max_tokens", "params.stopping.max_tokens"),
        ("stop[2]", "params.stopping.stop[2]"),
        ("logit_bias[7]", "params.sampling.logit_bias[7]"),
        ("options.priority", "options.priority"),
        ("request_id", "request_id"),
        ("guidance.regex", "params.guidance.regex"),
        ("guidance.choice[2]", "params.guidance.choice.choices[2]"),
        ("messages[1].role", "chat.messages[1].role"),
        ("parent.num_tokens", "parent.num_tokens"),
        ("tree", "tree"),
        ("tree.n", "tree.n"),
        ("tree.branches[1].n", "tree.branches[1].n"),
        ("tree.branches[1].prompt", "tree.branches[1].text"),
        ("tree.top_p", "tree.params.sampling.top_p"),
        ("tree.branches[0].guidance.regex", "tree.branches[0].params.guidance.regex"),
        ("tree.branches[0].messages[1].role", "tree.branches[0].chat.messages[1].role"),
        ("tree.branches[0].branches[1].text", "tree.branches[0].branches[1].text"),
    ],
)
def test_fields_are_named_as_in_the_messages(field, path):
    assert proto_path(field) == path
