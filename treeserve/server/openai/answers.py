"""What answers are made of: samples as they grow, log-probabilities, finish reasons and usage."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, TypeAlias

from treeserve.server.batching import PromptEvents
from treeserve.types import Delta, Echo, FinishReason, TokenLogprob, Usage

Json: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[int, ...]
TokenText: TypeAlias = Callable[[int], str]


class Chunk(NamedTuple):
    """One event of a stream."""

    data: Json
    event: str | None = None
    """Its name; None: it has none."""


@dataclass(frozen=True, slots=True)
class Head:
    """What all of an answer has in common."""

    answer_id: str
    model: str
    created: int
    tells_usage: bool
    """Of a stream: whether it ends with it."""
    tells_token_ids: bool


@dataclass(slots=True)
class Drawn:
    """A sample, or what is new of it."""

    path: Path
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_match: str | int | None = None
    num_tokens: int = 0

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or ()
        self.finish_reason = delta.finish_reason
        self.stop_match = delta.stop_match
        self.num_tokens = delta.num_tokens


class Collected:
    """All of a call's samples, put together from its events."""

    def __init__(self) -> None:
        self.echoes: dict[Path, Echo] = {}
        self.prompt_logprobs: dict[Path, list[TokenLogprob]] = {}
        self.samples: dict[tuple[Path, int], Drawn] = {}
        self.usages: dict[Path, Usage] = {}
        self.tree_usage: Usage | None = None

    def add(self, events: PromptEvents) -> list[Drawn]:
        """Take in events of one prompt; what is new of each sample."""
        if events.started is not None and events.started.echo is not None:
            self.echoes[events.path] = events.started.echo
        scored: list[TokenLogprob] = getattr(events, "prompt_logprobs", [])
        if scored:
            self.prompt_logprobs.setdefault(events.path, []).extend(scored)
        if events.usage is not None:
            self.usages[events.path] = events.usage
        self.tree_usage = events.tree_usage or self.tree_usage
        return drawn_of(events)

    def keep(self, events: PromptEvents) -> None:
        """Take in events and keep all that is drawn too."""
        self.add(events)
        for delta in events.deltas:
            key = (delta.path, delta.sample_index)
            if key not in self.samples:
                self.samples[key] = Drawn(*key)
            self.samples[key].add(delta)

    def in_order(self) -> list[Drawn]:
        """Samples by path, then by index."""
        return [self.samples[key] for key in sorted(self.samples)]


class Answer(Protocol):
    """Writes the answer to one call, as a stream of chunks or as a whole."""

    def chunks(self, events: PromptEvents) -> Iterator[Chunk]:
        """What is new of one prompt."""
        ...

    def last(self) -> Iterator[Chunk]:
        """What ends the stream."""
        ...

    def whole(self, collected: Collected) -> Json:
        """All of it at once."""
        ...


def drawn_of(events: PromptEvents) -> list[Drawn]:
    """What samples have grown by, each sample once."""
    news: dict[int, Drawn] = {}
    for delta in events.deltas:
        if delta.sample_index not in news:
            news[delta.sample_index] = Drawn(delta.path, delta.sample_index)
        news[delta.sample_index].add(delta)
    return list(news.values())


def write_end(drawn: Drawn) -> Json:
    """Why a sample ended, and the stop string or token id that ended it."""
    reason = drawn.finish_reason
    return {
        "finish_reason": None if reason is None else reason.value,
        "stop_reason": drawn.stop_match,
    }


def write_usage(usages: Iterable[Usage]) -> Json:
    """The sums over some prompts, each prompt counted once however many samples it has."""
    usages = list(usages)
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": sum(usage.cached_tokens for usage in usages),
            "shared_in_flight_tokens": sum(usage.shared_tokens for usage in usages),
            "computed_tokens": sum(usage.computed_tokens for usage in usages),
            # Approximate, and of those that were encoded meanwhile.
            "module_tokens": sum(usage.module_tokens for usage in usages),
            "encoded_tokens": sum(usage.encoded_tokens for usage in usages),
        },
    }


class CompletionLogprobs:
    """Log-probabilities as completions have them, token by token.

    Args:
        text_of: The text of a token.
    """

    def __init__(self, text_of: TokenText) -> None:
        self._text_of = text_of
        self._offsets: dict[tuple[Path, int], int] = {}

    def write(self, drawn: Drawn, start: int = 0) -> Json:
        """What is new; `start` is where the sample's own text begins."""
        texts = [self._text_of(entry.token_id) for entry in drawn.logprobs]
        offset = self._offsets.get((drawn.path, drawn.index), start)
        offsets = _offsets(texts, offset)
        self._offsets[drawn.path, drawn.index] = offset + sum(map(len, texts))
        return {
            "tokens": texts,
            "token_logprobs": [entry.logprob for entry in drawn.logprobs],
            "top_logprobs": [self._top(entry) for entry in drawn.logprobs],
            "text_offset": offsets,
        }

    def write_with_prompt(
        self, drawn: Drawn, token_ids: Sequence[int], scored: Sequence[TokenLogprob]
    ) -> Json:
        """Of the prompt's tokens, of which nothing is known of the first, and all drawn ones."""
        whole = self.write(Drawn(drawn.path, drawn.index, logprobs=[*scored, *drawn.logprobs]))
        first = self._text_of(token_ids[0])
        texts = [first, *whole["tokens"]]
        return {
            "tokens": texts,
            "token_logprobs": [None, *whole["token_logprobs"]],
            "top_logprobs": [None, *whole["top_logprobs"]],
            "text_offset": _offsets(texts, 0),
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        own = (entry.token_id, entry.logprob)
        return {self._text_of(token_id): logprob for token_id, logprob in (own, *entry.top)}


def _offsets(texts: Sequence[str], start: int) -> list[int]:
    """Where each text begins."""
    return list(accumulate(map(len, texts[:-1]), initial=start)) if texts else []


def write_chat_logprobs(entries: Sequence[TokenLogprob], text_of: TokenText) -> Json:
    """Log-probabilities as chats have them."""
    return {
        "content": [
            {
                **_write_token(entry.token_id, entry.logprob, text_of),
                "top_logprobs": [_write_token(*top, text_of) for top in entry.top],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _write_token(token_id: int, logprob: float, text_of: TokenText) -> Json:
    text = text_of(token_id)
    # Part of a character has no text of its own, so its bytes are not known from it.
    is_whole = "\ufffd" not in text
    return {
        "token": text,
        "logprob": logprob,
        "bytes": list(text.encode()) if is_whole else None,
    }
