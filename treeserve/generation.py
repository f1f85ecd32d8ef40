"""Text in, streams of text out, over a running engine: what every door of the service calls."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from treeserve.engine import Engine, EngineEvent, RequestEnded
from treeserve.errors import EngineStopped
from treeserve.loop import EngineLoop
from treeserve.prompt import EncodedPrompt, Prompter, TextStream
from treeserve.tokenizer import Tokenizer
from treeserve.types import (
    Caller,
    Delta,
    Finished,
    FinishReason,
    Prompt,
    PromptTree,
    RequestSize,
    SamplingParams,
)

Item = Delta | Finished
Admit = Callable[[RequestSize], AbstractContextManager[object]]

_ANYONE = Caller()
_CUT_SHORT = (FinishReason.ABORT, FinishReason.ERROR)


class TextService:
    """Prompts and trees of prompts as asynchronous streams.

    Closing or cancelling a stream ends its work before the engine's next step.

    Args:
        loop: Started.
        prompter: Of the same model.
    """

    def __init__(self, loop: EngineLoop, prompter: Prompter) -> None:
        self._loop = loop
        self._prompter = prompter

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        caller: Caller = _ANYONE,
        admit: Admit = nullcontext,
    ) -> AsyncGenerator[Item, None]:
        """Samples of one prompt.

        Args:
            prompt: Text, or token ids.
            params: None is the defaults.
            caller: For whom; decides with whom it shares.
            admit: Called in the event loop when the first item is asked for, before anything
                reaches the engine; entered while the stream runs, and may refuse it by raising.

        Raises:
            InvalidRequest: At once, or when the first item is asked for.
            EngineStopped: When the first item is asked for, or when the engine fails.
        """
        return self._stream([self._prompter.encode(prompt, params)], caller, admit)

    def generate_tree(
        self, tree: PromptTree, *, caller: Caller = _ANYONE, admit: Admit = nullcontext
    ) -> AsyncGenerator[Item, None]:
        """Samples of every prompt of a tree; as generate()."""
        return self._stream(self._prompter.encode_tree(tree), caller, admit)

    async def _stream(
        self, prompts: Sequence[EncodedPrompt], caller: Caller, admit: Admit
    ) -> AsyncGenerator[Item, None]:
        owned = [_owned(encoded, caller) for encoded in prompts]
        with admit(_size_of(owned)):
            texts = TextStreams(owned, self._prompter.tokenizer)
            stream = await self._loop.submit([encoded.request for encoded in owned])
            try:
                async for events in stream:
                    for item in texts.push(events):
                        if isinstance(item, StoppedSample):
                            self._loop.abort(item.request_id, item.sample_index)
                        else:
                            self._check_alive(item)
                            yield item
            finally:
                for request_id in texts.open_requests:
                    self._loop.abort(request_id)

    def _check_alive(self, item: Item) -> None:
        """What an engine cut short because it cannot go on is no sample."""
        cut_short = isinstance(item, Delta) and item.finish_reason in _CUT_SHORT
        if cut_short and self._loop.has_failed:
            raise EngineStopped("the engine failed before the call had ended")


def _owned(encoded: EncodedPrompt, caller: Caller) -> EncodedPrompt:
    request = replace(encoded.request, namespace=caller.namespace, tenant=caller.tenant)
    return replace(encoded, request=request)


def _size_of(prompts: Sequence[EncodedPrompt]) -> RequestSize:
    def tokens(encoded: EncodedPrompt) -> int:
        params = encoded.request.params
        return len(encoded.request.prompt_token_ids) + params.n * params.max_tokens

    sizes = tuple((encoded.path, tokens(encoded)) for encoded in prompts)
    return RequestSize(sizes, prompts[0].request.request_id)


class InPlaceLoop:
    """An engine without a thread, stepped by whoever reads one of its streams, for all of them.

    Args:
        engine: Used by nobody else.
        prompter: Of the same model.
    """

    def __init__(self, engine: Engine, prompter: Prompter) -> None:
        self._engine = engine
        self._prompter = prompter
        self._inboxes: dict[str, list[EngineEvent]] = {}

    def stream(self, prompts: Sequence[EncodedPrompt]) -> Iterator[Item]:
        """Samples of some prompts, which start when the first item is asked for.

        Closing the iterator ends its work. Several may be read in turn.
        """
        texts = TextStreams(prompts, self._prompter.tokenizer)
        inbox: list[EngineEvent] = []
        try:
            for encoded in prompts:
                self._engine.add(encoded.request)
                self._inboxes[encoded.request.request_id] = inbox
            while texts.open_requests:
                for item in texts.push(self._take(inbox)):
                    if isinstance(item, StoppedSample):
                        self._engine.abort(item.request_id, item.sample_index)
                    else:
                        yield item
        finally:
            for request_id in texts.open_requests:
                self._engine.abort(request_id)
            self._route(self._engine.take_ended())
            for encoded in prompts:
                self._inboxes.pop(encoded.request.request_id, None)
            if not self._inboxes:
                # Nobody may ever ask for another step.
                self._route(self._engine.settle()[0])

    def _take(self, inbox: list[EngineEvent]) -> list[EngineEvent]:
        """What came for a stream, running steps until something did."""
        while not inbox:
            if not self._engine.has_work():
                raise RuntimeError("a stream waits for requests that the engine does not have")
            events, _ = self._engine.step()
            self._route(events)
        events = inbox.copy()
        inbox.clear()
        return events

    def _route(self, events: Iterable[EngineEvent]) -> None:
        for event in events:
            inbox = self._inboxes.get(event.request_id)
            if inbox is not None:
                inbox.append(event)


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
        self._streams = {
            encoded.request.request_id: TextStream(encoded, tokenizer) for encoded in prompts
        }
        self.open_requests = set(self._streams)

    def push(self, events: Iterable[EngineEvent]) -> Iterator[Item | StoppedSample]:
        """Items that the events complete, and samples of which the engine must be told."""
        for event in events:
            stream = self._streams.get(event.request_id)
            if stream is None:
                continue
            if isinstance(event, RequestEnded):
                self.open_requests.discard(event.request_id)
                yield from stream.finish(event)
                continue
            delta = stream.push(event)
            if delta is None:
                continue
            if delta.finish_reason is not None and event.finish_reason is None:
                yield StoppedSample(event.request_id, event.sample_index)
            yield delta
