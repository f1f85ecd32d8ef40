"""Requests are known by name within their namespace, while they run and for a while after."""

import pytest
import tiny_models

from treeserve.engine_messages import TokenEvent
from treeserve.errors import AlreadyExists, BeyondDrawn, InvalidRequest, NotFound
from treeserve.prompt import Prompter
from treeserve.request_book import SAMPLE_TOKENS, RequestBook
from treeserve.text_stream import TextStream
from treeserve.tokenizer import Tokenizer
from treeserve.types import RequestOptions, SampleName, SamplingParams


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(
        Tokenizer(tiny_models.byte_tokenizer()),
        vocabulary_size=tiny_models.VOCABULARY_SIZE,
        max_positions=64,
        end_token_ids=frozenset({0}),
    )


def stream_of(prompter: Prompter, text: str, drawn: str = "") -> TextStream:
    encoded = prompter.encode(text, SamplingParams(n=2))
    stream = TextStream(encoded, prompter.tokenizer)
    for token_id in prompter.tokenizer.encode(drawn) if drawn else ():
        stream.push(TokenEvent(stream.request_id, 1, token_id, None, None))
    return stream


def options(request_id: str, namespace: str = "") -> RequestOptions:
    return RequestOptions(request_id=request_id, namespace=namespace)


def test_a_name_is_used_once_within_its_namespace(prompter):
    book = RequestBook()
    stream = stream_of(prompter, "a")
    known = book.open(options("x"), [stream])
    book.open(options("x", "other"), [stream])
    with pytest.raises(AlreadyExists, match="'x' is in use"):
        book.open(options("x"), [stream])
    book.end(known)
    with pytest.raises(AlreadyExists, match="'x' is in use"):
        book.open(options("x"), [stream])


def test_a_request_that_never_began_leaves_its_name_free(prompter):
    book = RequestBook()
    stream = stream_of(prompter, "a")
    book.drop(book.open(options("x"), [stream]))
    book.open(options("x"), [stream])


def test_nobody_elses_requests_are_known(prompter):
    book = RequestBook()
    book.open(options("x", "mine"), [stream_of(prompter, "a")])
    assert book.find("mine", "x")
    with pytest.raises(NotFound, match="no request 'x'"):
        book.find("theirs", "x")


def test_the_oldest_that_ended_are_forgotten_and_what_runs_never(prompter):
    book = RequestBook(max_ended_tokens=2 * (5 + 2 * SAMPLE_TOKENS))
    running = book.open(options("running"), [stream_of(prompter, "x" * 50)])
    for name in ("a", "b", "c"):
        book.end(book.open(options(name), [stream_of(prompter, "1234", drawn="5")]))
    assert book.find("", "b")
    assert book.find("", "c")
    assert book.find("", "running") is running
    with pytest.raises(NotFound):
        book.find("", "a")


def test_what_a_sample_drew_is_known_as_it_grows(prompter):
    book = RequestBook()
    stream = stream_of(prompter, "ab", drawn="cd")
    book.open(options("x"), [stream])
    known = book.find_prompt("", SampleName("x"))
    ids = tuple(prompter.tokenizer.encode("abcde"))
    assert known.before(1, None) == ids[:4]
    assert known.before(1, 1) == ids[:3]
    assert known.before(0, None) == ids[:2]
    stream.push(TokenEvent(stream.request_id, 1, ids[4], None, None))
    assert known.before(1, None) == ids
    with pytest.raises(BeyondDrawn, match="between 0 and the 3 tokens"):
        known.before(1, 4)
    with pytest.raises(InvalidRequest, match="below the parent's 2 samples"):
        known.before(2, None)
    with pytest.raises(InvalidRequest, match="no samples at"):
        book.find_prompt("", SampleName("x", (0,)))
