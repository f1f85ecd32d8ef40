"""Answers put together from events, where a live model would hardly show the difference."""

from dataclasses import dataclass, field

from treeserve.server.batching import PromptEvents
from treeserve.server.openai.answers import Collected, Head
from treeserve.server.openai.completions import CompletionAnswer
from treeserve.types import Delta, Echo, FinishReason, OutputOptions, Started, TokenLogprob, Usage

HEAD = Head("cmpl-1", "model", 0, tells_usage=True, tells_token_ids=True)
USAGE = Usage(2, 0, 0, 2, 1)


@dataclass(slots=True)
class ScoredEvents(PromptEvents):
    """Events of a prompt whose tokens are scored."""

    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)


def letter(token_id: int) -> str:
    return chr(token_id)


def test_prompt_tokens_come_before_drawn_ones_and_nothing_is_known_of_the_first():
    collected = Collected()
    echo = Echo("ab", (97, 98))
    collected.keep(ScoredEvents((), started=Started((), "r", 1, 2, OutputOptions(), echo)))
    collected.keep(ScoredEvents((), prompt_logprobs=[TokenLogprob(98, -1.0, ((99, -0.5),))]))
    drawn = Delta((), 0, "c", (99,), (TokenLogprob(99, -2.0),), FinishReason.LENGTH)
    collected.keep(ScoredEvents((), deltas=[drawn], usage=USAGE))
    answer = CompletionAnswer(HEAD, letter, num_samples=1, tells_logprobs=True)
    [choice] = answer.whole(collected)["choices"]
    assert choice["text"] == "abc"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"b": -1.0, "c": -0.5}, {"c": -2.0}],
        "text_offset": [0, 1, 2],
    }


def test_a_token_without_text_is_told_where_its_id_was_asked_for():
    answer = CompletionAnswer(HEAD, letter, num_samples=1, tells_logprobs=False)
    first = list(answer.chunks(PromptEvents((), deltas=[Delta((), 0, "", (195,))])))
    assert [chunk.data["choices"][0]["token_ids"] for chunk in first] == [[195]]


def test_offsets_of_log_probabilities_go_on_from_chunk_to_chunk():
    answer = CompletionAnswer(HEAD, letter, num_samples=1, tells_logprobs=True)
    offsets = []
    for token_id in (97, 98, 99):
        logprobs = (TokenLogprob(token_id, -1.0),)
        delta = Delta((), 0, letter(token_id), (token_id,), logprobs)
        for chunk in answer.chunks(PromptEvents((), deltas=[delta])):
            offsets += chunk.data["choices"][0]["logprobs"]["text_offset"]
    assert offsets == [0, 1, 2]
