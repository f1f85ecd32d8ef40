"""One service beneath two doors: what gRPC draws, HTTP draws, and both share one tree."""

import grpc
import openai
import pytest
from server.http_door.live import MODEL

from treeserve import Client, PromptTree, SamplingParams
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc
from treeserve.types import Chat, Message

PARAMS = SamplingParams(
    n=3, seed=11, max_tokens=10, temperature=0.9, top_p=0.95, frequency_penalty=0.5
)
SAID = {"seed": 11, "max_tokens": 10, "temperature": 0.9, "top_p": 0.95, "frequency_penalty": 0.5}


@pytest.fixture
def grpc_client(live):
    with Client(str(live.service.server.grpc_address)) as client:
        yield client


def texts_of(completion) -> list[str]:
    return [sample.text for sample in completion.samples]


def test_equal_seeds_give_equal_texts(sdk, grpc_client):
    prompt = "The same through both doors"
    [told] = grpc_client.generate(prompt, PARAMS).collect()
    answer = sdk.completions.create(model=MODEL, prompt=prompt, n=3, **SAID)
    assert [choice.text for choice in answer.choices] == texts_of(told)
    # What came through one door is cached for the other.
    assert answer.usage.prompt_tokens_details.cached_tokens == told.usage.prompt_tokens


def test_equal_seeds_give_equal_log_probabilities(sdk, grpc_client):
    params = SamplingParams(seed=1, max_tokens=6, logprobs=2)
    [told] = grpc_client.generate("numbers", params).collect()
    asked = {"prompt": "numbers", "seed": 1, "max_tokens": 6, "logprobs": 2}
    answer = sdk.completions.create(model=MODEL, **asked)
    wanted = [entry.logprob for entry in told.samples[0].logprobs]
    assert answer.choices[0].logprobs.token_logprobs == pytest.approx(wanted, abs=1e-5)


def test_equal_seeds_give_equal_chats(sdk, grpc_client):
    chat = Chat((Message("user", "hello"),))
    [told] = grpc_client.generate(chat, PARAMS).collect()
    turns = [{"role": "user", "content": "hello"}]
    answer = sdk.chat.completions.create(model=MODEL, messages=turns, n=3, **SAID)
    assert [choice.message.content for choice in answer.choices] == texts_of(told)


def test_equal_seeds_give_equal_trees(sdk, grpc_client):
    tree = PromptTree(
        "trunk ", params=PARAMS, branches=(PromptTree("left", n=3), PromptTree("right"))
    )
    told = grpc_client.generate_tree(tree).collect()
    branches = [{"text": "left", "n": 3}, {"text": "right"}]
    body = {"tree": {"text": "trunk ", "params": SAID, "branches": branches}}
    answer = sdk.post("/trees", body=body, cast_to=object)
    for node, completion in zip(answer["nodes"], told, strict=True):
        assert [choice["text"] for choice in node["choices"]] == texts_of(completion)
        assert tuple(node["path"]) == completion.path


def test_a_sample_that_came_through_one_door_is_forked_through_the_other(sdk, live):
    answer = sdk.completions.create(
        model=MODEL, prompt="fork me", extra_body={"request_id": "both-doors"}
    )
    assert answer.id == "both-doors"
    with grpc.insecure_channel(str(live.service.server.grpc_address)) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        parent = pb.ForkParent(request_id="both-doors", num_tokens=2)
        messages = list(stub.Fork(pb.ForkRequest(parent=parent)))
    assert messages[-1].usage.prompt_tokens == len("fork me") + 2
    with pytest.raises(openai.ConflictError):
        sdk.completions.create(model=MODEL, prompt="x", extra_body={"request_id": "both-doors"})
    with pytest.raises(openai.NotFoundError, match="no request"):
        sdk.post("/forks", body={"parent": {"request_id": "nobody"}}, cast_to=object)
