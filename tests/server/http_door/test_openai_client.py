"""The official openai package against a live server: what its users do every day."""

import asyncio
import json
from enum import StrEnum

import openai
import pytest
from pydantic import BaseModel
from server.http_door.live import MODEL

TURNS = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
CHAT = {"model": MODEL, "messages": TURNS, "max_completion_tokens": 8, "seed": 5}
TEXT = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 8, "seed": 5}
NOBODY_ENDS = {"ignore_eos": True}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Paint(BaseModel, extra="forbid"):
    colour: Colour


def test_the_model_is_listed_and_found_by_its_name(sdk):
    [model] = sdk.models.list().data
    assert model.id == MODEL
    assert sdk.models.retrieve(MODEL).max_model_len == 1024
    with pytest.raises(openai.NotFoundError, match="'other' is not served here") as caught:
        sdk.models.retrieve("other")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_a_completion_says_what_it_used(sdk):
    answer = sdk.completions.create(**TEXT, extra_body=NOBODY_ENDS)
    [choice] = answer.choices
    assert answer.object == "text_completion"
    assert choice.finish_reason == "length"
    assert answer.usage.prompt_tokens == len("Once upon a time")
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    again = sdk.completions.create(**TEXT, extra_body=NOBODY_ENDS)
    assert again.choices[0].text == choice.text
    assert again.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens


def test_max_tokens_defaults_to_sixteen_as_openais(sdk):
    answer = sdk.completions.create(model=MODEL, prompt="a", extra_body=NOBODY_ENDS)
    assert answer.usage.completion_tokens == 16


def test_a_stream_brings_the_text_of_the_whole_answer(sdk):
    whole = sdk.completions.create(**TEXT, n=2)
    texts, ends, usages = ["", ""], [None, None], []
    options = {"include_usage": True}
    for chunk in sdk.completions.create(**TEXT, n=2, stream=True, stream_options=options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason or ends[choice.index]
        usages += [chunk.usage] if chunk.usage else []
    assert texts == [choice.text for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    [usage] = usages
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_prompts_of_a_list_are_one_tree_and_compute_their_common_text_once(sdk):
    trunk = "Twelve prompts begin with this text, which no other test has. "
    prompts = [f"{trunk}{number:2}" for number in range(12)]
    answer = sdk.completions.create(model=MODEL, prompt=prompts, n=2, max_tokens=2, seed=3)
    assert [choice.index for choice in answer.choices] == list(range(24))
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    details = answer.usage.prompt_tokens_details
    # The second last character is a digit for the last two alone.
    assert details.computed_tokens <= len(trunk) + 2 * len(prompts)
    alone = sdk.completions.create(model=MODEL, prompt=prompts[5], n=2, max_tokens=2, seed=3)
    same = [choice.text for choice in answer.choices[10:12]]
    assert [choice.text for choice in alone.choices] == same


def test_token_ids_are_prompts_too(sdk):
    ids = [1 + byte for byte in b"Once upon a time"]
    one = sdk.completions.create(**{**TEXT, "prompt": ids})
    assert one.choices[0].text == sdk.completions.create(**TEXT).choices[0].text
    two = sdk.completions.create(**{**TEXT, "prompt": [ids, [66, 67]]})
    assert two.choices[0].text == one.choices[0].text


def test_echo_puts_the_prompt_before_every_sample(sdk):
    plain = sdk.completions.create(**TEXT, n=2)
    echoed = sdk.completions.create(**TEXT, n=2, echo=True)
    wanted = [TEXT["prompt"] + choice.text for choice in plain.choices]
    assert [choice.text for choice in echoed.choices] == wanted
    texts = ["", ""]
    for chunk in sdk.completions.create(**TEXT, n=2, echo=True, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == wanted


def test_echo_with_log_probabilities_scores_the_prompt(sdk):
    """As evaluation harnesses ask for it."""
    asked = {**TEXT, "max_tokens": 1, "echo": True, "logprobs": 1}
    [choice] = sdk.completions.create(**asked, extra_body=NOBODY_ENDS).choices
    told = choice.logprobs
    assert told.tokens[:-1] == list(TEXT["prompt"])
    assert told.text_offset == list(range(len(TEXT["prompt"]) + 1))
    assert told.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in told.token_logprobs[1:])
    assert all(
        max(top.values()) >= told.token_logprobs[i + 1]
        for i, top in enumerate(told.top_logprobs[1:])
    )


def test_best_of_returns_the_likeliest(sdk):
    drawn = sdk.completions.create(**TEXT, n=6, logprobs=0, extra_body=NOBODY_ENDS)
    means = [sum(choice.logprobs.token_logprobs) for choice in drawn.choices]
    best = max(range(6), key=means.__getitem__)
    answer = sdk.completions.create(**TEXT, n=1, best_of=6, extra_body=NOBODY_ENDS)
    [choice] = answer.choices
    assert choice.text == drawn.choices[best].text
    assert choice.logprobs is None
    assert answer.usage.completion_tokens == 6 * 8


def test_stop_strings_and_biases_do_what_they_say(sdk):
    # Token 1 + byte is that byte.
    biased = {**TEXT, "logit_bias": {str(1 + ord("y")): 100}}
    assert sdk.completions.create(**biased).choices[0].text == "y" * 8
    [choice] = sdk.completions.create(**biased, stop="yyy").choices
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("", "stop", "yyy")
    kept = {"include_stop_str_in_output": True}
    assert sdk.completions.create(**biased, stop=["yyy"], extra_body=kept).choices[0].text == "yyy"


def test_log_probabilities_of_completions_line_up_with_tokens(sdk):
    [choice] = sdk.completions.create(**TEXT, logprobs=3, extra_body=NOBODY_ENDS).choices
    told = choice.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == 8
    assert told.text_offset[0] == 0
    for token, logprob, top in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert token in top
        assert logprob <= 0


def test_a_chat_goes_through_the_models_template(sdk):
    answer = sdk.chat.completions.create(**CHAT)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    rendered = "<system>be brief<user>hello<assistant>"
    assert answer.usage.prompt_tokens == len(rendered)
    limit = {"max_tokens": 8, "seed": 5}
    plain = sdk.completions.create(model=MODEL, prompt=rendered, **limit)
    assert choice.message.content == plain.choices[0].text


def test_content_may_come_in_parts(sdk):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    turns = [TURNS[0], {"role": "user", "content": parts}]
    answer = sdk.chat.completions.create(**{**CHAT, "messages": turns})
    assert answer.choices[0].message == sdk.chat.completions.create(**CHAT).choices[0].message


def test_a_chat_streams_its_role_once_and_then_its_text(sdk):
    whole = sdk.chat.completions.create(**CHAT, n=2)
    texts, roles = ["", ""], [[], []]
    for chunk in sdk.chat.completions.create(**CHAT, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += [choice.delta.role] if choice.delta.role else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert roles == [["assistant"], ["assistant"]]


def test_log_probabilities_of_chats_tell_bytes(sdk):
    [choice] = sdk.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2).choices
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token


def test_a_chat_without_a_limit_may_use_the_room_that_the_model_has(sdk):
    turns = [{"role": "user", "content": "x" * 850}]
    answer = sdk.chat.completions.create(model=MODEL, messages=turns, extra_body=NOBODY_ENDS)
    usage = answer.usage
    assert usage.completion_tokens == 1024 - usage.prompt_tokens > 128
    assert answer.choices[0].finish_reason == "length"


def test_structured_outputs_are_parsed_into_the_users_own_type(sdk):
    limits = {"max_completion_tokens": 60, "seed": 1}
    parsed = sdk.chat.completions.parse(
        model=MODEL, messages=TURNS, response_format=Paint, **limits
    )
    assert parsed.choices[0].message.parsed.colour in Colour
    schema = {"name": "paint", "schema": Paint.model_json_schema()}
    formats = {"type": "json_schema", "json_schema": schema}
    answer = sdk.chat.completions.create(**{**CHAT, **limits}, response_format=formats)
    assert Paint.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"guided_choice": ["left", "right"]}, {"left", "right"}),
        ({"guided_regex": "a[bc]d"}, {"abd", "acd"}),
        ({"guided_json": {"enum": [1, 2]}}, {"1", "2"}),
        ({"guided_json": '{"enum": [1, 2]}'}, {"1", "2"}),
        ({"guided_grammar": 'start: "x" | "yy"'}, {"x", "yy"}),
        ({"structured_outputs": {"choice": ["left", "right"]}}, {"left", "right"}),
        ({"structured_outputs": {"json": {"const": "a"}}}, {'"a"'}),
    ],
)
def test_vllms_guided_options_keep_the_text_to_what_they_say(sdk, asked, allowed):
    answer = sdk.completions.create(**TEXT, extra_body=asked)
    assert answer.choices[0].text in allowed


ADD = {
    "name": "add",
    "description": "adds",
    "parameters": {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
TOOLS = [{"type": "function", "function": ADD}]
MUST_ADD = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize("choice", ["required", MUST_ADD])
def test_a_function_that_must_be_called_is_called_with_arguments_of_its_schema(sdk, choice):
    asked = {**CHAT, "max_completion_tokens": 60, "tools": TOOLS, "tool_choice": choice}
    [drawn] = sdk.chat.completions.create(**asked).choices
    assert drawn.finish_reason == "tool_calls"
    [call] = drawn.message.tool_calls
    assert call.function.name == "add"
    assert json.loads(call.function.arguments)["a"] in (1, 2)
    [chunk] = [chunk for chunk in sdk.chat.completions.create(**asked, stream=True)]
    [streamed] = chunk.choices[0].delta.tool_calls
    assert streamed.function == call.function or streamed.function.name == "add"
    turns = [
        *TURNS,
        drawn.message.model_dump(include={"role", "content", "tool_calls"}),
        {"role": "tool", "content": "3", "tool_call_id": call.id},
    ]
    assert sdk.chat.completions.create(**{**CHAT, "messages": turns}).choices


def test_the_template_is_told_of_the_tools_unless_none_may_be_called(sdk):
    with_tools = sdk.chat.completions.create(**CHAT, tools=TOOLS)
    without = sdk.chat.completions.create(**CHAT, tools=TOOLS, tool_choice="none")
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_response_streams_its_events_and_ends_as_the_whole_one(sdk):
    asked = {"model": MODEL, "input": "hello", "instructions": "be brief", "max_output_tokens": 8}
    whole = sdk.responses.create(**asked, extra_body={"seed": 5})
    assert whole.output_text == sdk.chat.completions.create(**CHAT).choices[0].message.content
    events = list(sdk.responses.create(**asked, extra_body={"seed": 5}, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens
    assert events[-1].response.status == whole.status


def test_a_response_is_parsed_into_the_users_own_type(sdk):
    parsed = sdk.responses.parse(model=MODEL, input="hello", text_format=Paint)
    assert parsed.output_parsed.colour in Colour
    assert parsed.status == "completed"


async def test_many_chats_run_at_once_through_the_asynchronous_client(live):
    async with live.async_client() as client:

        async def ask(seed: int) -> str:
            asked = {**CHAT, "seed": seed}
            stream = await client.chat.completions.create(**asked, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        texts = await asyncio.gather(*(ask(seed) for seed in range(16)))
        for seed in (0, 15):
            answer = await client.chat.completions.create(**{**CHAT, "seed": seed})
            assert answer.choices[0].message.content == texts[seed]


def test_trees_and_forks_are_reached_through_the_same_client(sdk):
    params = {"max_tokens": 6, "seed": 2, "ignore_eos": True}
    branches = [{"text": "left", "n": 2}, {"text": "right", "params": {**params, "max_tokens": 3}}]
    tree = {"text": "A tree: ", "params": params, "branches": branches}
    answer = sdk.post("/trees", body={"tree": tree, "return_token_ids": True}, cast_to=object)
    assert [(node["path"], len(node["choices"])) for node in answer["nodes"]] == [
        ([0], 2),
        ([1], 1),
    ]
    assert answer["tree_usage"]["prompt_tokens"] == len("A tree: leftright")
    parent = {"request_id": answer["id"], "path": [0], "sample_index": 1, "num_tokens": 4}
    fork = sdk.post("/forks", body={"parent": parent, "n": 2}, cast_to=openai.types.Completion)
    assert fork.usage.prompt_tokens == len("A tree: left") + 4
    assert fork.usage.prompt_tokens_details.computed_tokens <= 1
    assert len(fork.choices) == 2


def test_tokens_and_back(sdk, live):
    root = sdk.with_options(base_url=live.url)
    told = root.post("/tokenize", body={"prompt": "né"}, cast_to=object)
    assert (told["count"], told["max_model_len"], len(told["tokens"])) == (3, 1024, 3)
    assert root.post("/detokenize", body={"tokens": told["tokens"]}, cast_to=object) == {
        "prompt": "né"
    }
    chat = root.post("/tokenize", body={"messages": TURNS}, cast_to=object)
    assert chat["count"] == len("<system>be brief<user>hello<assistant>")
