"""Turns drawn tokens back into text that no later byte or stop string can take back."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from treeserve.engine_messages import (
    EngineEvent,
    PromptProgress,
    PromptScored,
    RequestEnded,
    TokenEvent,
)
from treeserve.prompt import EncodedPrompt
from treeserve.scheduler.request import PromptUsage
from treeserve.tokenizer import TextDecoder, Tokenizer
from treeserve.types import (
    Delta,
    Echo,
    Finished,
    FinishReason,
    Progress,
    PromptLogprobs,
    SampleTimings,
    Started,
    TokenLogprob,
    Usage,
)

Item = PromptLogprobs | Delta | Finished
"""What a stream of texts consists of."""


class TextStream:
    """Turns one request's engine events into deltas of text.

    Args:
        encoded: The request.
        tokenizer: The model's.
    """

    def __init__(self, encoded: EncodedPrompt, tokenizer: Tokenizer) -> None:
        self.encoded = encoded
        self.path = encoded.path
        self.request_id = encoded.request.request_id
        self._tokenizer = tokenizer
        self._samples = [
            _SampleText(tokenizer, encoded, index) for index in range(encoded.request.params.n)
        ]
        self._admitted_at: float | None = None
        self._completion_tokens = 0

    @property
    def drawn(self) -> list["array[int]"]:
        """[n] of what each sample has drawn, as far as it was told; they go on growing."""
        return [sample.drawn for sample in self._samples]

    def has_ended(self, sample_index: int) -> bool:
        """Whether a sample's last delta has been made."""
        return self._samples[sample_index].ended

    def start(self, request_id: str) -> Started:
        """The first item; `request_id` is what the caller knows the request by."""
        request = self.encoded.request
        echo = None
        if self.encoded.output.echo:
            token_ids = request.prompt_token_ids
            echo = Echo(self._tokenizer.decode(token_ids), token_ids)
        return Started(
            path=self.path,
            request_id=request_id,
            seed=request.params.seed or 0,
            num_prompt_tokens=len(request.prompt_token_ids),
            output=self.encoded.output,
            echo=echo,
        )

    def progress(self, event: PromptProgress) -> Progress:
        """The item that tells how far its prompt is."""
        num_prompt_tokens = len(self.encoded.request.prompt_token_ids)
        return Progress(self.path, event.num_computed_tokens, num_prompt_tokens)

    def push(self, event: TokenEvent) -> Delta | None:
        """Fold one token in; None where nothing can be released yet.

        When the delta's finish_reason is set and the event's was not, a stop string ended the
        sample, and the engine is still to be told (abort of that sample).
        """
        sample = self._samples[event.sample_index]
        if sample.ended:
            return None
        self._completion_tokens += 1
        self._admitted_at = event.admitted_at
        return sample.push(event, self._admitted_at)

    def abort(self, sample_index: int, at: float) -> Delta | None:
        """End a sample now; None if it had ended."""
        sample = self._samples[sample_index]
        return None if sample.ended else sample.close(FinishReason.ABORT, at, self._admitted_at)

    def finish(self, event: RequestEnded) -> list[Delta | Finished]:
        """The request's last items: of samples that an error or abort cut short, and its usage."""
        self._admitted_at = event.admitted_at
        reason = event.reason
        if reason is FinishReason.DEADLINE and self.encoded.is_time_limited:
            reason = FinishReason.TIME_LIMIT
        last = [
            sample.close(reason, event.at, self._admitted_at)
            for sample in self._samples
            if not sample.ended
        ]
        return [*last, Finished(self.path, self._usage(event.usage))]

    def _usage(self, usage: PromptUsage) -> Usage:
        return Usage(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            shared_tokens=usage.shared_tokens,
            computed_tokens=usage.computed_tokens,
            completion_tokens=self._completion_tokens,
            recomputed_tokens=usage.recomputed_tokens,
            module_tokens=usage.module_tokens,
            encoded_tokens=usage.encoded_tokens,
        )


@dataclass(frozen=True, slots=True)
class StoppedSample:
    """A stop string ended a sample that the engine still runs."""

    request_id: str
    sample_index: int


class TextStreams:
    """The texts of several requests that are streamed together.

    Args:
        prompts: The requests.
        tokenizer: The model's.
    """

    def __init__(self, prompts: Iterable[EncodedPrompt], tokenizer: Tokenizer) -> None:
        self.streams = [TextStream(encoded, tokenizer) for encoded in prompts]
        self._by_id = {stream.request_id: stream for stream in self.streams}
        self._aborted: list[Delta] = []
        self.open_requests = set(self._by_id)

    def abort(self, request_id: str, sample_index: int, at: float) -> bool:
        """End a sample; whether it had not ended. Its last delta is in what is pushed next."""
        delta = self._by_id[request_id].abort(sample_index, at)
        if delta is not None:
            self._aborted.append(delta)
        return delta is not None

    def push(self, events: Iterable[EngineEvent]) -> Iterator[Item | Progress | StoppedSample]:
        """Items that the events complete, and samples of which the engine must be told."""
        aborted, self._aborted = self._aborted, []
        yield from aborted
        for event in events:
            stream = self._by_id.get(event.request_id)
            if stream is not None:
                yield from self._push(stream, event)

    def _push(
        self, stream: TextStream, event: EngineEvent
    ) -> Iterator[Item | Progress | StoppedSample]:
        match event:
            case PromptProgress():
                yield stream.progress(event)
            case PromptScored():
                yield PromptLogprobs(stream.path, event.logprobs)
            case RequestEnded():
                self.open_requests.discard(event.request_id)
                yield from stream.finish(event)
            case _:
                delta = stream.push(event)
                if delta is None:
                    return
                if delta.finish_reason is not None and event.finish_reason is None:
                    yield StoppedSample(event.request_id, event.sample_index)
                yield delta


class _SampleText:
    """One sample's text: held back while a character is incomplete or a stop string may begin."""

    def __init__(self, tokenizer: Tokenizer, encoded: EncodedPrompt, index: int) -> None:
        params = encoded.request.params
        self._decoder = TextDecoder(tokenizer, encoded.context_token_ids)
        self._path = encoded.path
        self._index = index
        self._arrived_at = encoded.arrived_at
        self._stop = params.stop
        self._includes_stop = params.include_stop
        self._min_tokens = params.min_tokens
        self._end_token_ids = encoded.request.end_token_ids
        self._wants_logprobs = params.logprobs is not None
        self._held = ""
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._first_token_at: float | None = None
        self.drawn = array("i")
        self.ended = False

    def push(self, event: TokenEvent, admitted_at: float | None) -> Delta | None:
        self._take(event)
        found = None
        if len(self.drawn) > self._min_tokens:
            found = _first_stop(self._held, self._stop)
        if found is not None:
            self._held = self._held[: found.end if self._includes_stop else found.start]
            return self._last(FinishReason.STOP, found.text, event.at, admitted_at)
        reason = event.finish_reason
        if reason is not None:
            match = event.token_id if reason is FinishReason.STOP else None
            return self._last(reason, match, event.at, admitted_at)
        return self._partial()

    def close(self, reason: FinishReason, at: float, admitted_at: float | None) -> Delta:
        self._held += self._decoder.flush()
        return self._last(reason, None, at, admitted_at)

    def _take(self, event: TokenEvent) -> None:
        if self._first_token_at is None:
            self._first_token_at = event.at
        self.drawn.append(event.token_id)
        self._token_ids.append(event.token_id)
        if event.logprob is not None:
            self._logprobs.append(event.logprob)
        if event.token_id not in self._end_token_ids:
            self._held += self._decoder.push(event.token_id)
        if event.finish_reason is not None:
            self._held += self._decoder.flush()

    def _partial(self) -> Delta | None:
        is_early = len(self.drawn) <= self._min_tokens
        length = len(self._held) - (0 if is_early else _stop_overlap(self._held, self._stop))
        if length == 0:
            return None
        rest, self._held = self._held[length:], self._held[:length]
        delta = self._delta()
        self._held = rest
        return delta

    def _last(
        self,
        reason: FinishReason,
        match: str | int | None,
        at: float,
        admitted_at: float | None,
    ) -> Delta:
        self.ended = True
        return self._delta(reason, match, self._timings(at, admitted_at))

    def _timings(self, at: float, admitted_at: float | None) -> SampleTimings:
        first_token_at = at if self._first_token_at is None else self._first_token_at
        num_later = len(self.drawn) - 1
        return SampleTimings(
            queue_seconds=(at if admitted_at is None else admitted_at) - self._arrived_at,
            first_token_seconds=first_token_at - self._arrived_at,
            total_seconds=at - self._arrived_at,
            seconds_per_token=(at - first_token_at) / num_later if num_later > 0 else 0.0,
        )

    def _delta(
        self,
        reason: FinishReason | None = None,
        match: str | int | None = None,
        timings: SampleTimings | None = None,
    ) -> Delta:
        delta = Delta(
            path=self._path,
            sample_index=self._index,
            text=self._held,
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs) if self._wants_logprobs else None,
            finish_reason=reason,
            stop_match=match,
            num_tokens=len(self.drawn),
            timings=timings,
        )
        self._held = ""
        self._token_ids.clear()
        self._logprobs.clear()
        return delta


class _Stop(NamedTuple):
    """Where a stop string lies in a text."""

    start: int
    end: int
    text: str


def _first_stop(text: str, stop: Sequence[str]) -> _Stop | None:
    """The stop string that begins first, if one is there; of several, the shortest."""
    found = [(text.find(string), len(string), string) for string in stop if string in text]
    if not found:
        return None
    start, _, string = min(found)
    return _Stop(start, start + len(string), string)


def _stop_overlap(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    longest = min(len(text), max((len(string) - 1 for string in stop), default=0))
    for length in range(longest, 0, -1):
        if any(string.startswith(text[-length:]) for string in stop):
            return length
    return 0
