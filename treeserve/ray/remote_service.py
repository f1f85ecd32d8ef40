"""The text service of an ingress: checks and tokenises here, and generates on the replicas."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np

from treeserve.cluster.router import RoutedRequest, expected_tokens
from treeserve.errors import NotFound
from treeserve.generation import size_of
from treeserve.prompt import EncodedPrompt, Prompter
from treeserve.ray.calls import (
    Failure,
    Fork,
    Generate,
    GenerateTree,
    StreamCall,
    without_tokenizer,
)
from treeserve.ray.engines import Engines, routed_by, routed_by_modules
from treeserve.ray.failures import read_failure
from treeserve.request_size import Admit, RequestSize
from treeserve.scheduler.modules import ModuleSet
from treeserve.schemas.importing import Importing, encode_importing_tree
from treeserve.server.batching import PromptEvents
from treeserve.server.contract import EventStream
from treeserve.token_counts import count_importing, count_tokens, detokenize, tokenize
from treeserve.types import (
    Chat,
    Delta,
    Finished,
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

_MAX_LEARNED_SAMPLES = 4


class RemoteTextService:
    """As `treeserve.server.contract.TextService`, over a handle of the engines' deployment.

    Args:
        engines: Behind their router.
        prompter: Of the same model.
    """

    def __init__(self, engines: Engines, prompter: Prompter) -> None:
        self._engines = engines
        self._prompter = prompter

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        output: OutputOptions | None,
        options: RequestOptions,
        admit: Admit,
        modules: ModuleSet | None = None,
    ) -> EventStream:
        """Raises as TextService.generate; a replica that dies ends the stream, EngineStopped."""
        options = _named(options)
        encoded = self._prompter.encode(
            prompt, params, output=output, options=options, modules=modules
        )
        token_ids = encoded.request.prompt_token_ids
        asked = Generate(token_ids=token_ids, params=params, output=output, modules=modules)
        call = self._engines.call(asked, options, _routed([encoded], options))
        return self._learning(call, self._admitted(call, size_of([encoded]), admit))

    def generate_tree(
        self,
        tree: PromptTree,
        *,
        options: RequestOptions,
        admit: Admit,
        importing: Importing | None = None,
    ) -> EventStream:
        """As generate(); the whole tree runs on one replica."""
        options = _named(options)
        if importing is None:
            encoded = self._prompter.encode_tree(tree, options=options)
            asked = GenerateTree(tree=tree)
        else:
            encoded = encode_importing_tree(self._prompter, tree, importing, options)
            asked = GenerateTree(tree=tree, importing=without_tokenizer(importing))
        call = self._engines.call(asked, options, _routed(encoded, options))
        return self._admitted(call, size_of(encoded), admit)

    def fork(
        self,
        parent: SampleName,
        num_tokens: int | None,
        params: SamplingParams | None,
        *,
        n: int,
        output: OutputOptions | None,
        options: RequestOptions,
        admit: Admit,
    ) -> EventStream:
        """As generate(), on the replica that has the parent."""
        options = _named(options)
        asked = Fork(parent=parent, num_tokens=num_tokens, params=params, n=n, output=output)
        routed = RoutedRequest(
            request_id="",
            namespace=options.namespace,
            tokens=np.zeros(0, dtype=np.int32),
            num_expected=0 if params is None else expected_tokens(n, params.max_tokens),
            name=options.request_id or "",
            continues=parent.request_id,
        )
        return self._forked(self._engines.call(asked, options, routed), parent, admit)

    async def abort(
        self,
        request_id: str,
        path: tuple[int, ...],
        sample_index: int | None,
        *,
        namespace: str,
    ) -> int:
        """As TextService.abort, on whichever replica has the request."""
        answers = await self._engines.broadcast("abort", request_id, path, sample_index, namespace)
        for answer in answers:
            if isinstance(answer, Failure):
                raise read_failure(answer)
            if answer is not None:
                return int(answer)
        raise NotFound(f"request_id: no request {request_id!r} runs or ended lately")

    def tokenize(self, prompt: str | Chat, *, special_tokens: bool) -> tuple[int, ...]:
        return tokenize(self._prompter, prompt, special_tokens=special_tokens)

    def detokenize(self, token_ids: Sequence[int], *, special_tokens: bool) -> str:
        return detokenize(self._prompter, token_ids, special_tokens=special_tokens)

    def count_tokens(self, prompt: Prompt | PromptTree) -> TokenCounts:
        return count_tokens(self._prompter, prompt)

    def count_importing(self, importing: Importing, tree: PromptTree | None = None) -> TokenCounts:
        return count_importing(self._prompter, importing, tree)

    async def _learning(
        self, call: StreamCall, events: AsyncGenerator[StreamEvent, None]
    ) -> AsyncGenerator[StreamEvent, None]:
        """Remembers what its first samples drew, for the router to hear of with a later call."""
        drawn: dict[int, list[int]] = {index: [] for index in range(_MAX_LEARNED_SAMPLES)}
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Delta) and event.sample_index in drawn:
                    drawn[event.sample_index].extend(event.token_ids)
                yield event
        routed = call.routed
        for tokens in drawn.values():
            if len(tokens) > 1:
                # The last token drawn is never computed.
                held = np.concatenate([routed.tokens, np.array(tokens[:-1], dtype=np.int32)])
                self._engines.learn(routed, held)

    async def _admitted(
        self, call: StreamCall, size: RequestSize, admit: Admit
    ) -> AsyncGenerator[StreamEvent, None]:
        with admit(size):
            async with aclosing(self._engines.stream(call)) as answers:
                async for answer in answers:
                    for event in _events_of(answer):
                        yield event

    async def _forked(
        self, call: StreamCall, parent: SampleName, admit: Admit
    ) -> AsyncGenerator[StreamEvent, None]:
        """The size of a fork is known where its parent is: the replica tells it first."""
        replica_id = await self._home_of(parent, call.options.namespace)
        call = replace(call, replica_id=replica_id)
        async with aclosing(self._engines.stream(call)) as answers:
            size = await anext(answers)
            assert isinstance(size, RequestSize)
            with admit(size):
                async for answer in answers:
                    for event in _events_of(answer):
                        yield event

    async def _home_of(self, parent: SampleName, namespace: str) -> str:
        for replica_id in await self._engines.broadcast("knows", namespace, parent.request_id):
            if replica_id is not None:
                return str(replica_id)
        raise NotFound(f"request_id: no request {parent.request_id!r} runs or ended lately")


def _named(options: RequestOptions) -> RequestOptions:
    """Named here, so that the router knows the name before the call has been sent."""
    return options if options.request_id else replace(options, request_id=uuid.uuid4().hex)


def _routed(prompts: Sequence[EncodedPrompt], options: RequestOptions) -> RoutedRequest:
    params = [encoded.request.params for encoded in prompts]
    trunk = _trunk([encoded.request.prompt_token_ids for encoded in prompts])
    own = sum(len(encoded.request.prompt_token_ids) - len(trunk) for encoded in prompts)
    num_expected = own + sum(expected_tokens(entry.n, entry.max_tokens) for entry in params)
    modules = prompts[0].request.modules
    if modules is None:
        return routed_by(trunk, options, num_expected=num_expected)
    return routed_by_modules(modules.modules, trunk, options, num_expected=num_expected)


def _trunk(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all of them begin with."""
    first, last = min(prompts), max(prompts)
    num_same = 0
    for left, right in zip(first, last, strict=False):
        if left != right:
            break
        num_same += 1
    return first[:num_same]


def _events_of(batch: Sequence[PromptEvents]) -> list[StreamEvent]:
    """What was gathered, one by one again; each prompt's in their order."""
    events: list[StreamEvent] = []
    for prompt in batch:
        first = (prompt.started, prompt.progress)
        events.extend(event for event in first if event is not None)
        if prompt.prompt_logprobs:
            events.append(PromptLogprobs(prompt.path, tuple(prompt.prompt_logprobs)))
        events.extend(prompt.deltas)
        if prompt.usage is not None:
            events.append(Finished(prompt.path, prompt.usage))
        if prompt.tree_usage is not None:
            events.append(TreeFinished(prompt.tree_usage))
    return events
