"""Bad input names its field and limit; text is streamed only when nothing can take it back."""

import pytest
import tiny_models

from treeserve.engine_messages import RequestEnded, TokenEvent
from treeserve.errors import InvalidRequest
from treeserve.prompt import EncodedPrompt, Prompter
from treeserve.scheduler.request import PromptUsage
from treeserve.text_stream import TextStream
from treeserve.tokenizer import TextDecoder, Tokenizer
from treeserve.types import (
    MAX_TREE_DEPTH,
    Delta,
    Finished,
    FinishReason,
    PromptTree,
    RequestOptions,
    SamplingParams,
)

END = 0


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(
        Tokenizer(tiny_models.byte_tokenizer()),
        vocabulary_size=tiny_models.VOCABULARY_SIZE,
        max_positions=64,
        end_token_ids=frozenset({END}),
    )


@pytest.mark.parametrize(
    ("params", "field", "limit"),
    [
        ({"temperature": -0.1}, "temperature", "between 0 and 100"),
        ({"temperature": float("nan")}, "temperature", "must be a number"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"top_k": -1}, "top_k", "between 0 and 320"),
        ({"top_k": 1.5}, "top_k", "whole number"),
        ({"top_p": 0.0}, "top_p", "above 0"),
        ({"top_p": 1.01}, "top_p", "between 0 and 1"),
        ({"min_p": 2.0}, "min_p", "between 0 and 1"),
        ({"n": 0}, "n", "between 1 and 1024"),
        ({"n": 1025}, "n", "between 1 and 1024"),
        ({"max_tokens": 0}, "max_tokens", "between 1 and 128"),
        ({"max_tokens": 129}, "max_tokens", "between 1 and 128"),
        ({"seed": -1}, "seed", "between 0 and"),
        ({"seed": 1 << 64}, "seed", "between 0 and"),
        ({"logprobs": 21}, "logprobs", "between 0 and 20"),
        ({"stop": ("",)}, "stop[0]", "1 to 256"),
        ({"stop": "end"}, "stop", "list of strings"),
        ({"stop": ("x",) * 17}, "stop", "at most 16"),
        ({"stop_token_ids": (320,)}, "stop_token_ids[0]", "between 0 and 319"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "between 0.01 and 100"),
        ({"presence_penalty": 2.1}, "presence_penalty", "between -2 and 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty", "must be a number"),
        ({"logit_bias": [1]}, "logit_bias", "mapping from token ids to numbers"),
        ({"logit_bias": {320: 1.0}}, "logit_bias", "between 0 and 319"),
        ({"logit_bias": {7: 101.0}}, "logit_bias[7]", "between -100 and 100"),
        ({"logit_bias": dict.fromkeys(range(1025), 0.0)}, "logit_bias", "at most 1024"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "between 0 and 8"),
        ({"include_stop": 1}, "include_stop", "true or false"),
        ({"time_limit_seconds": 0.0}, "time_limit_seconds", "above 0"),
        ({"time_limit_seconds": 86_401.0}, "time_limit_seconds", "between 0 and 86400"),
    ],
)
def test_parameters_out_of_range(prompter, params, field, limit):
    with pytest.raises(InvalidRequest, match=limit) as caught:
        prompter.encode("text", SamplingParams(**params))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("prompt", "field", "limit"),
    [
        ("", "prompt", "empty"),
        ([], "prompt", "empty"),
        ([1, 320], "prompt[1]", "between 0 and 319"),
        ([-1], "prompt[0]", "between 0 and 319"),
        ([1, "2"], "prompt[1]", "whole number"),
        ("x" * 64, "prompt", "at most 63"),
        ("half \ud800", "prompt", "character 5"),
    ],
)
def test_prompts_that_can_never_be_served(prompter, prompt, field, limit):
    with pytest.raises(InvalidRequest, match=limit) as caught:
        prompter.encode(prompt)
    assert caught.value.field == field


def test_max_tokens_is_cut_to_what_the_model_has_room_for(prompter):
    encoded = prompter.encode("x" * 60, SamplingParams(max_tokens=64))
    assert encoded.request.params.max_tokens == 4


def test_a_fresh_seed_for_each_request_unless_one_is_given(prompter):
    seeds = {prompter.encode("x").request.params.seed for _ in range(5)}
    assert len(seeds) == 5
    assert prompter.encode("x", SamplingParams(seed=7)).request.params.seed == 7


@pytest.mark.parametrize(
    ("time_limit", "deadline", "nearer", "is_time_limited"),
    [
        (None, None, None, False),
        (None, 50.0, 50.0, False),
        (5.0, None, 15.0, True),
        (5.0, 50.0, 15.0, True),
        (5.0, 12.0, 12.0, False),
    ],
)
def test_the_nearer_of_time_limit_and_deadline_holds(
    prompter, time_limit, deadline, nearer, is_time_limited
):
    options = RequestOptions(arrived_at=10.0, deadline=deadline)
    params = SamplingParams(time_limit_seconds=time_limit)
    encoded = prompter.encode("x", params, options=options)
    assert encoded.request.deadline == nearer
    assert encoded.is_time_limited == is_time_limited


def test_who_asks_goes_with_the_request(prompter):
    options = RequestOptions(priority=4, namespace="mine", tenant="me")
    request = prompter.encode("x", options=options).request
    assert (request.priority, request.namespace, request.tenant) == (4, "mine", "me")


class TestTree:
    def test_prompts_are_the_texts_from_the_trunk_down_tokenised_whole(self, prompter):
        leaf = PromptTree("c", n=2)
        tree = PromptTree("a", branches=(PromptTree("b", branches=(leaf,)), PromptTree("d")))
        encoded = prompter.encode_tree(tree)
        texts = {
            prompt.path: prompter.tokenizer.decode(prompt.request.prompt_token_ids)
            for prompt in encoded
        }
        assert texts == {(0, 0): "abc", (1,): "ad"}
        assert [prompt.request.params.n for prompt in encoded] == [2, 1]

    def test_parameters_are_inherited_until_a_node_sets_its_own(self, prompter):
        own = SamplingParams(temperature=0.5)
        inner = PromptTree("b", params=own, branches=(PromptTree("c"),))
        tree = PromptTree("a", params=SamplingParams(temperature=0.2), branches=(inner,), n=1)
        temperatures = {p.path: p.request.params.temperature for p in prompter.encode_tree(tree)}
        assert temperatures == {(): 0.2, (0, 0): 0.5}

    @pytest.mark.parametrize(
        ("tree", "field"),
        [
            (PromptTree(""), "tree.prompt"),
            (PromptTree("a", n=0), "tree"),
            (PromptTree("a", n=-1), "tree.n"),
            (PromptTree("a", branches=(PromptTree("b", n=2000),)), "tree.branches[0].n"),
            (
                PromptTree("a", branches=(PromptTree("b", params=SamplingParams(top_p=2)),)),
                "tree.branches[0].top_p",
            ),
        ],
    )
    def test_errors_name_the_node(self, prompter, tree, field):
        with pytest.raises(InvalidRequest) as caught:
            prompter.encode_tree(tree)
        assert caught.value.field == field

    def test_depth_is_bounded(self, prompter):
        tree = PromptTree("x")
        for _ in range(MAX_TREE_DEPTH + 1):
            tree = PromptTree("", branches=(tree,))
        with pytest.raises(InvalidRequest, match="deeper than 64"):
            prompter.encode_tree(tree)


def events_of(
    encoded: EncodedPrompt, token_ids: list[int], last: FinishReason | None
) -> list[TokenEvent]:
    request_id = encoded.request.request_id
    reasons = [None] * (len(token_ids) - 1) + [last]
    return [
        TokenEvent(request_id, 0, token_id, None, reason)
        for token_id, reason in zip(token_ids, reasons, strict=True)
    ]


def stream_text(
    prompter: Prompter, text: str, stop: tuple[str, ...], last: FinishReason | None, **params
) -> list[Delta]:
    encoded = prompter.encode("p", SamplingParams(stop=stop, **params))
    stream = TextStream(encoded, prompter.tokenizer)
    token_ids = prompter.tokenizer.encode(text)
    deltas = [stream.push(event) for event in events_of(encoded, token_ids, last)]
    return [delta for delta in deltas if delta is not None]


class TestTextStream:
    def test_deltas_join_to_the_text(self, prompter):
        text = "naïve 日本語 🙂 end"
        deltas = stream_text(prompter, text, (), FinishReason.LENGTH)
        assert "".join(delta.text for delta in deltas) == text
        assert all("\ufffd" not in delta.text for delta in deltas)
        token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
        assert token_ids == prompter.tokenizer.encode(text)
        assert [delta.finish_reason for delta in deltas][-1] is FinishReason.LENGTH

    def test_a_stop_string_ends_the_sample_before_it(self, prompter):
        deltas = stream_text(prompter, "one\n\nTWO three", ("\n\nTWO", "zzz"), None)
        assert "".join(delta.text for delta in deltas) == "one"
        assert deltas[-1].finish_reason is FinishReason.STOP
        assert len([token for delta in deltas for token in delta.token_ids]) == len("one\n\nTWO")

    def test_text_that_a_stop_string_may_take_back_is_held(self, prompter):
        deltas = stream_text(prompter, "ab--a", ("--b",), None)
        assert [delta.text for delta in deltas] == ["a", "b", "--a"]

    @pytest.mark.parametrize(("include", "text"), [(False, "one"), (True, "one\n\nTWO")])
    def test_a_stop_string_is_told_and_kept_if_asked_for(self, prompter, include, text):
        deltas = stream_text(
            prompter, "one\n\nTWO three", ("\n\nTWO", "zzz"), None, include_stop=include
        )
        assert "".join(delta.text for delta in deltas) == text
        assert [delta.stop_match for delta in deltas if delta.finish_reason] == ["\n\nTWO"]

    def test_the_token_that_ended_a_sample_is_told(self, prompter):
        [*_, last] = stream_text(prompter, "ab", (), FinishReason.STOP)
        assert last.stop_match == prompter.tokenizer.encode("b")[0]
        [*_, last] = stream_text(prompter, "ab", (), FinishReason.LENGTH)
        assert last.stop_match is None

    def test_no_stop_string_begins_before_there_are_tokens_enough(self, prompter):
        text = "ab ab ab!"
        for min_tokens, end in ((0, 0), (1, 3), (3, 3), (4, 6), (7, 9)):
            deltas = stream_text(prompter, text, ("ab",), None, min_tokens=min_tokens)
            assert "".join(delta.text for delta in deltas) == text[:end]

    def test_deltas_count_the_samples_tokens(self, prompter):
        deltas = stream_text(prompter, "ab--a", ("--b",), None)
        assert [delta.num_tokens for delta in deltas] == [1, 2, 5]

    def test_held_text_is_released_at_the_end(self, prompter):
        deltas = stream_text(prompter, "ab--", ("--b",), FinishReason.LENGTH)
        assert "".join(delta.text for delta in deltas) == "ab--"

    def test_an_incomplete_character_at_the_end_is_shown_as_such(self, prompter):
        encoded = prompter.encode("p")
        stream = TextStream(encoded, prompter.tokenizer)
        first_byte = prompter.tokenizer.encode("é")[0]
        [delta] = [stream.push(e) for e in events_of(encoded, [first_byte], FinishReason.LENGTH)]
        assert delta is not None
        assert delta.text == "\ufffd"

    def test_the_end_token_is_no_text(self, prompter):
        encoded = prompter.encode("p")
        stream = TextStream(encoded, prompter.tokenizer)
        tokens = [*prompter.tokenizer.encode("hi"), END]
        deltas = [stream.push(event) for event in events_of(encoded, tokens, FinishReason.STOP)]
        assert "".join(delta.text for delta in deltas if delta) == "hi"

    def test_samples_that_an_error_cut_short_end_with_it(self, prompter):
        encoded = prompter.encode("p", SamplingParams(n=2))
        stream = TextStream(encoded, prompter.tokenizer)
        for event in events_of(encoded, prompter.tokenizer.encode("hi"), FinishReason.STOP):
            stream.push(event)
        usage = PromptUsage(1, 0, 0, 1)
        last, finished = stream.finish(
            RequestEnded(stream.request_id, usage, FinishReason.ERROR, "broke")
        )
        assert isinstance(last, Delta)
        assert (last.sample_index, last.finish_reason) == (1, FinishReason.ERROR)
        assert isinstance(finished, Finished)
        assert finished.usage.completion_tokens == 2


@pytest.mark.parametrize("text", ["né", "日本", "a🙂b", "plain"])
def test_a_character_that_a_branch_cuts_in_two_belongs_to_what_follows(prompter, text):
    """Every branch of a text: what was told before it, and what follows, make the text again."""
    tokens = prompter.tokenizer.encode(text)
    for end in range(len(tokens) + 1):
        before = TextDecoder(prompter.tokenizer)
        told = "".join(before.push(token_id) for token_id in tokens[:end])
        after = TextDecoder(prompter.tokenizer, tokens[:end])
        rest = "".join(after.push(token_id) for token_id in tokens[end:])
        assert told + rest + after.flush() == text


def test_bytes_before_a_branch_that_are_no_character_are_not_told_again(prompter):
    broken = prompter.tokenizer.encode("é")[1:] * 6
    decoder = TextDecoder(prompter.tokenizer, broken)
    assert decoder.push(prompter.tokenizer.encode("x")[0]) == "x"


def test_the_decoder_keeps_spaces_that_a_lone_token_would_lose(prompter):
    decoder = TextDecoder(prompter.tokenizer)
    text = "  a  b\n\tc "
    pieces = [decoder.push(token_id) for token_id in prompter.tokenizer.encode(text)]
    assert "".join(pieces) + decoder.flush() == text
