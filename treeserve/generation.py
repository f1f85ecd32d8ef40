"""Text in, streams of text out, over a running engine: what every door of the service calls."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace

from treeserve.engine import Engine
from treeserve.engine_messages import Branch, EngineEvent
from treeserve.errors import EngineStopped, InvalidRequest
from treeserve.loop import EngineLoop
from treeserve.prompt import EncodedPrompt, Prompter
from treeserve.request_book import KnownRequest, RequestBook
from treeserve.request_size import Admit, RequestSize
from treeserve.scheduler.modules import ModuleSet
from treeserve.schemas.importing import Importing, encode_importing_tree
from treeserve.text_stream import Item, StoppedSample, TextStreams
from treeserve.token_counts import (
    combined_usage,
    count_importing,
    count_tokens,
    detokenize,
    tokenize,
)
from treeserve.types import (
    Chat,
    Delta,
    Finished,
    FinishReason,
    OutputOptions,
    Prompt,
    PromptLogprobs,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
    StreamEvent,
    TokenCounts,
    TreeFinished,
)

_DEFAULTS = RequestOptions()
_CUT_SHORT = (FinishReason.ABORT, FinishReason.ERROR)


class TextService:
    """Prompts, trees of prompts and branches as asynchronous streams.

    Closing or cancelling a stream ends its work before the engine's next step. Streams and
    abort() belong to one event loop; everything else may be called from any thread, by one at a
    time.

    Args:
        loop: Started.
        prompter: Of the same model.
        book: Knows what ran; None: a fresh one.
    """

    def __init__(
        self, loop: EngineLoop, prompter: Prompter, book: RequestBook | None = None
    ) -> None:
        self._loop = loop
        self._prompter = prompter
        self._book = book or RequestBook()
        self._live: dict[KnownRequest, _LiveStreams] = {}

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        output: OutputOptions | None = None,
        options: RequestOptions = _DEFAULTS,
        admit: Admit = nullcontext,
        modules: ModuleSet | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Samples of one prompt.

        Args:
            prompt: Text, token ids or a chat.
            params: None is the defaults.
            output: What to tell beside text; None is the defaults.
            options: Who asks; decides with whom it shares.
            admit: Decides whether it may run.
            modules: What the prompt imports; it is then its own tokens.

        Raises:
            InvalidRequest: At once, or when the first item is asked for.
            NotPossible: At once: the model or this installation cannot do what is asked.
            AlreadyExists: When the first item is asked for.
            EngineStopped: When the first item is asked for, or when the engine fails.
        """
        encoded = self._prompter.encode(
            prompt, params, output=output, options=options, modules=modules
        )
        return self._stream([encoded], options, admit)

    def generate_tree(
        self,
        tree: PromptTree,
        *,
        options: RequestOptions = _DEFAULTS,
        admit: Admit = nullcontext,
        importing: Importing | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Samples of every prompt of a tree, its whole usage last; as generate().

        Where it is importing, all prompts import the same modules, and their texts are own text.
        """
        if importing is None:
            encoded = self._prompter.encode_tree(tree, options=options)
        else:
            encoded = encode_importing_tree(self._prompter, tree, importing, options)
        return self._tree_stream(encoded, options, admit)

    def fork(
        self,
        parent: SampleName,
        num_tokens: int | None = None,
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        output: OutputOptions | None = None,
        options: RequestOptions = _DEFAULTS,
        admit: Admit = nullcontext,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Samples that go on from a token of another one, which runs or ended lately.

        Args:
            parent: The other sample.
            num_tokens: That it drew before the branch; None: all that it has drawn.
            params: None: the parent's, with a fresh seed and without prompt_logprobs; a grammar
                goes on where the branch is.
            n: Samples to draw.
            output: What to tell beside text; without params, the parent's.
            options: Who asks.
            admit: Decides whether it may run.

        Raises:
            NotFound: At once: no such parent in the namespace.
            BeyondDrawn: At once: it has not drawn as many tokens.
        Others are raised as by generate().
        """
        prompt = self._book.find_prompt(options.namespace, parent)
        before = prompt.before(parent.sample_index, num_tokens)
        num_prompt = len(prompt.prompt_token_ids)
        guided = () if params else (*prompt.guided_token_ids, *before[num_prompt:])
        encoded = self._prompter.encode_branch(
            Branch(prompt.engine_id, parent.sample_index, len(before) - num_prompt),
            before,
            replace(params or replace(prompt.params, seed=None, prompt_logprobs=None), n=n),
            guided_token_ids=guided,
            num_public_tokens=prompt.num_public_tokens,
            output=output if params else prompt.output,
            options=options,
            modules=prompt.modules,
        )
        return self._stream([encoded], options, admit)

    def abort(
        self,
        request_id: str,
        path: tuple[int, ...] = (),
        sample_index: int | None = None,
        *,
        namespace: str = "",
    ) -> int:
        """End a request, a branch with all beneath it, or one sample; of what has ended, nothing.

        Args:
            request_id: As its stream told it.
            path: Of a tree: the branch.
            sample_index: One sample of the very node at `path`; None: all.
            namespace: Of the caller.

        Returns:
            How many samples were ended by this.

        Raises:
            NotFound: No such request in the namespace.
            InvalidRequest: It draws no samples there.
        """
        known = self._book.find(namespace, request_id)
        names = _named(known, path, sample_index)
        live = self._live.get(known)
        return 0 if live is None else live.abort(names, self._loop)

    def tokenize(self, prompt: str | Chat, *, special_tokens: bool = True) -> tuple[int, ...]:
        """Token ids of a prompt; raises as generate().

        Args:
            prompt: Text or a chat.
            special_tokens: Whether a text begins with the special tokens of the model's prompts.
        """
        return tokenize(self._prompter, prompt, special_tokens=special_tokens)

    def detokenize(self, token_ids: Sequence[int], *, special_tokens: bool = False) -> str:
        """Text of token ids, with special tokens only if they are asked for."""
        return detokenize(self._prompter, token_ids, special_tokens=special_tokens)

    def count_tokens(self, prompt: Prompt | PromptTree) -> TokenCounts:
        """Tokens of a prompt or a tree, and what sharing saves of them; raises as generate()."""
        return count_tokens(self._prompter, prompt)

    def count_importing(self, importing: Importing, tree: PromptTree | None = None) -> TokenCounts:
        """The same of a prompt that imports modules, or of a tree whose prompts all do."""
        return count_importing(self._prompter, importing, tree)

    async def _tree_stream(
        self, prompts: Sequence[EncodedPrompt], options: RequestOptions, admit: Admit
    ) -> AsyncGenerator[StreamEvent, None]:
        usages = {}
        async with aclosing(self._stream(prompts, options, admit)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    usages[event.path] = event.usage
                yield event
        token_ids = [encoded.request.prompt_token_ids for encoded in prompts]
        each = [usages[encoded.path] for encoded in prompts]
        yield TreeFinished(await asyncio.to_thread(combined_usage, token_ids, each))

    async def _stream(
        self, prompts: Sequence[EncodedPrompt], options: RequestOptions, admit: Admit
    ) -> AsyncGenerator[StreamEvent, None]:
        with admit(size_of(prompts)):
            async with aclosing(self._admitted(prompts, options)) as events:
                async for event in events:
                    yield event

    async def _admitted(
        self, prompts: Sequence[EncodedPrompt], options: RequestOptions
    ) -> AsyncGenerator[StreamEvent, None]:
        texts = TextStreams(prompts, self._prompter.tokenizer)
        known = self._book.open(options, texts.streams)
        try:
            stream = await self._loop.submit([encoded.request for encoded in prompts])
        except BaseException:
            self._book.drop(known)
            raise
        self._live[known] = _LiveStreams(texts, lambda: stream.queue.put_nowait([]))
        try:
            for text in texts.streams:
                yield text.start(known.request_id)
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
            del self._live[known]
            self._book.end(known)

    def _check_alive(self, item: StreamEvent) -> None:
        """What an engine cut short because it cannot go on is no sample."""
        cut_short = isinstance(item, Delta) and item.finish_reason in _CUT_SHORT
        if cut_short and self._loop.has_failed:
            raise EngineStopped("the engine failed before the call had ended")


def size_of(prompts: Sequence[EncodedPrompt]) -> RequestSize:
    """What the prompts of one call may come to."""

    def tokens(encoded: EncodedPrompt) -> int:
        params, modules = encoded.request.params, encoded.request.modules
        num_imported = 0 if modules is None else modules.num_tokens
        num_own = len(encoded.request.prompt_token_ids)
        return num_imported + num_own + params.n * params.max_tokens

    sizes = tuple((encoded.path, tokens(encoded)) for encoded in prompts)
    return RequestSize(sizes, prompts[0].request.request_id)


@dataclass(frozen=True, slots=True, eq=False)
class _LiveStreams:
    """A running request's texts, and how to wake who reads them."""

    texts: "TextStreams"
    wake: Callable[[], None]

    def abort(self, names: Iterable[tuple[str, int]], loop: EngineLoop) -> int:
        ended = [name for name in names if self.texts.abort(*name, time.monotonic())]
        for request_id, sample_index in ended:
            loop.abort(request_id, sample_index)
        self.wake()
        return len(ended)


def _named(
    known: KnownRequest, path: tuple[int, ...], sample_index: int | None
) -> list[tuple[str, int]]:
    """(engine id, sample index) of what an abort names."""
    if sample_index is not None:
        prompt = known.prompts.get(path)
        if prompt is None:
            raise InvalidRequest("path", f"the request draws no samples at {list(path)}")
        if not 0 <= sample_index < len(prompt.drawn):
            raise InvalidRequest(
                "sample_index", f"must be below {len(prompt.drawn)}, got {sample_index}"
            )
        return [(prompt.engine_id, sample_index)]
    beneath = [p for at, p in known.prompts.items() if at[: len(path)] == path]
    if not beneath:
        raise InvalidRequest("path", f"the request draws no samples at or beneath {list(path)}")
    return [(p.engine_id, index) for p in beneath for index in range(len(p.drawn))]


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
                    elif isinstance(item, PromptLogprobs | Delta | Finished):
                        yield item
        finally:
            for request_id in texts.open_requests:
                self._engine.abort(request_id)
            self._route(self._engine.take_ended())
            for encoded in prompts:
                self._inboxes.pop(encoded.request.request_id, None)
            if not self._inboxes:
                # Nobody may ever ask for another step.
                self.settle()

    def settle(self) -> None:
        """No step is on its way any more: what lies between two steps may be looked at."""
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
