"""Text in, streams of text out, over a running engine: what every door of the service calls."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

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


def stream_in_place(
    engine: Engine, prompter: Prompter, prompts: Sequence[EncodedPrompt]
) -> Iterator[Item]:
    """The same stream from an engine without a thread, stepped by whoever reads the stream.

    Closing the iterator ends its work.
    """
    texts = TextStreams(prompts, prompter.tokenizer)
    try:
        for encoded in prompts:
            engine.add(encoded.request)
        while texts.open_requests:
            events, _ = engine.step()
            for item in texts.push(events):
                if isinstance(item, StoppedSample):
                    engine.abort(item.request_id, item.sample_index)
                else:
                    yield item
    finally:
        for request_id in texts.open_requests:
            engine.abort(request_id)
        engine.take_ended()


class StoppedSample:
    """A stop string ended a sample that the engine still runs."""

    __slots__ = ("request_id", "sample_index")

    def __init__(self, request_id: str, sample_index: int) -> None:
        self.request_id = request_id
        self.sample_index = sample_index


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
