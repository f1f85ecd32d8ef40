"""Text in, streams of text out, over a running engine: what every door of the service calls."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from treeserve.engine import Engine, EngineEvent, RequestEnded
from treeserve.loop import EngineLoop
from treeserve.prompt import EncodedPrompt, Prompter, TextStream
from treeserve.tokenizer import Tokenizer
from treeserve.types import Delta, Finished, Prompt, PromptTree, SamplingParams

Item = Delta | Finished


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
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> AsyncGenerator[Item, None]:
        """Samples of one prompt.

        Raises:
            InvalidRequest: At once, or when the first item is asked for.
            EngineStopped: When the first item is asked for.
        """
        return self._stream([self._prompter.encode(prompt, params)])

    def generate_tree(self, tree: PromptTree) -> AsyncGenerator[Item, None]:
        """Samples of every prompt of a tree; raises as generate()."""
        return self._stream(self._prompter.encode_tree(tree))

    async def _stream(self, prompts: Sequence[EncodedPrompt]) -> AsyncGenerator[Item, None]:
        texts = TextStreams(prompts, self._prompter.tokenizer)
        stream = await self._loop.submit([encoded.request for encoded in prompts])
        try:
            async for events in stream:
                for item in texts.push(events):
                    if isinstance(item, StoppedSample):
                        self._loop.abort(item.request_id, item.sample_index)
                    else:
                        yield item
        finally:
            for request_id in texts.open_requests:
                self._loop.abort(request_id)


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
                self._engine.settle()

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
