"""Completions and forks: their requests read, their answers written."""

from collections.abc import Iterator
from dataclasses import replace

from treeserve.errors import InvalidRequest
from treeserve.server.batching import PromptEvents
from treeserve.server.contract import ServedModel
from treeserve.server.convert import ForkCall, GenerateCall, TreeCall
from treeserve.server.generating import AskedCall
from treeserve.server.openai.answers import (
    Chunk,
    Collected,
    CompletionLogprobs,
    Drawn,
    Head,
    Json,
    TokenText,
    write_end,
    write_usage,
)
from treeserve.server.openai.asked import (
    Asked,
    Naming,
    NamingOfList,
    check_model,
    head_of,
    read_options,
)
from treeserve.server.openai.more_schemas import ForkRequest, Params
from treeserve.server.openai.read_drawing import read_guided, read_params
from treeserve.server.openai.read_modules import read_modules
from treeserve.server.openai.schemas import CompletionRequest, ImportedModules
from treeserve.types import (
    DEFAULT_MAX_TOKENS,
    OutputOptions,
    Prompt,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
)

DEFAULT_COMPLETION_TOKENS = 16
"""As OpenAI's."""


def read_completion(body: CompletionRequest, served: ServedModel, text_of: TokenText) -> Asked:
    """What a completions request asks for; raises InvalidRequest with its own field names."""
    check_model(body.model, served)
    _check(body)
    guided = read_guided(body)
    num_drawn = _num_drawn(body)
    params = read_params(
        body,
        n=num_drawn,
        max_tokens=DEFAULT_COMPLETION_TOKENS,
        logprobs=0 if body.logprobs is None and num_drawn != (body.n or 1) else body.logprobs,
        guided=guided,
    )
    options = read_options(body, "cmpl")
    naming = Naming(guided.field, {"n": "best_of"} if body.best_of is not None else {})
    if body.echo and body.logprobs is not None:
        params = replace(params, prompt_logprobs=body.logprobs)
    answer = CompletionAnswer(
        head_of(body, options, served),
        text_of,
        num_samples=body.n or 1,
        tells_logprobs=body.logprobs is not None,
    )
    prompts = _prompts(body)
    output = OutputOptions(echo=bool(body.echo))
    is_retained = body.prompt_cache_retention == "24h"
    if is_retained and len(prompts) > 1:
        raise InvalidRequest("prompt_cache_retention", "must be with one prompt, not with a list")
    return Asked(
        _call(prompts, params, output, options)
        if body.modules is None
        else _importing_call(body, body.modules, params, options),
        answer,
        bool(body.stream),
        NamingOfList(naming) if len(prompts) > 1 else naming,
        prompts[0] if is_retained else None,
    )


def read_fork_request(body: ForkRequest, served: ServedModel, text_of: TokenText) -> Asked:
    """What a forks request asks for."""
    check_model(body.model, served)
    params = None if body.params is None else read_node_params(body.params, "params")
    options = read_options(body, "fork")
    call = ForkCall(
        parent=SampleName(
            body.parent.request_id, tuple(body.parent.path or ()), body.parent.sample_index or 0
        ),
        num_tokens=body.parent.num_tokens,
        n=1 if body.n is None else body.n,
        params=params,
        output=None if params is None else OutputOptions(),
        options=options,
    )
    answer = CompletionAnswer(
        head_of(body, options, served),
        text_of,
        num_samples=call.n,
        tells_logprobs=params is None or params.logprobs is not None,
    )
    return Asked(call, answer, bool(body.stream), Naming("params", {"num_tokens": "parent"}))


def read_node_params(body: Params, field: str) -> SamplingParams:
    """Of a tree's node or a fork; raises InvalidRequest with the field before its own."""
    try:
        return read_params(
            body,
            n=None,
            max_tokens=DEFAULT_MAX_TOKENS,
            logprobs=body.logprobs,
            guided=read_guided(body),
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}.{error.field}", error.description) from None


class CompletionAnswer:
    """Writes text completions; samples of several prompts are numbered through.

    Args:
        head: What all of it has in common.
        text_of: The text of a token.
        num_samples: Of each prompt, to be told; where more are drawn, the likeliest.
        tells_logprobs: Whether log-probabilities are told.
    """

    def __init__(
        self, head: Head, text_of: TokenText, *, num_samples: int, tells_logprobs: bool
    ) -> None:
        self._head = head
        self._num_samples = num_samples
        self._tells_logprobs = tells_logprobs
        self._tells_tokens = tells_logprobs or head.tells_token_ids
        self._logprobs = CompletionLogprobs(text_of)
        self._collected = Collected()

    def chunks(self, events: PromptEvents) -> Iterator[Chunk]:
        news = self._collected.add(events)
        if events.started is not None and events.started.echo is not None:
            for index in range(self._num_samples):
                echo = Drawn(events.path, index, events.started.echo.text)
                yield self._chunk([self._choice(echo, index, "")])
        for drawn in news:
            if drawn.text or drawn.finish_reason or self._tells_tokens:
                yield self._chunk([self._choice(drawn, drawn.index, "")])

    def last(self) -> Iterator[Chunk]:
        if self._head.tells_usage:
            usage = write_usage(self._collected.usages.values())
            yield self._chunk([], usage)

    def whole(self, collected: Collected) -> Json:
        choices = []
        for path in sorted({path for path, _ in collected.samples}):
            drawn = [sample for sample in collected.in_order() if sample.path == path]
            for index, sample in enumerate(_best(drawn, self._num_samples)):
                choices.append(self._echoed(sample, index, collected))
        usage = write_usage(collected.usages.values())
        return {**self._top(), "choices": choices, "usage": usage}

    def _chunk(self, choices: list[Json], usage: Json | None = None) -> Chunk:
        more = {"usage": usage} if self._head.tells_usage else {}
        return Chunk({**self._top(), "choices": choices, **more})

    def _top(self) -> Json:
        return {
            "id": self._head.answer_id,
            "object": "text_completion",
            "created": self._head.created,
            "model": self._head.model,
        }

    def _echoed(self, drawn: Drawn, index: int, collected: Collected) -> Json:
        echo = collected.echoes.get(drawn.path)
        choice = self._choice(drawn, index, "" if echo is None else echo.text)
        scored = collected.prompt_logprobs.get(drawn.path, [])
        if echo is not None and self._tells_logprobs:
            told = self._logprobs.write_with_prompt(drawn, echo.token_ids, scored)
            choice["logprobs"] = told
        return choice

    def _choice(self, drawn: Drawn, index: int, echo: str) -> Json:
        first = drawn.path[0] * self._num_samples if drawn.path else 0
        tells = self._tells_logprobs and drawn.logprobs
        choice: Json = {
            "index": first + index,
            "text": echo + drawn.text,
            "logprobs": self._logprobs.write(drawn, len(echo)) if tells else None,
            **write_end(drawn),
        }
        if self._head.tells_token_ids:
            choice["token_ids"] = drawn.token_ids
        return choice


def _check(body: CompletionRequest) -> None:
    if (body.prompt is None) == (body.modules is None):
        raise InvalidRequest("prompt", "must be given, or modules, and not both")
    if body.modules is not None and body.prompt_cache_retention == "24h":
        raise InvalidRequest("prompt_cache_retention", "must not be given with modules")
    if body.suffix:
        raise InvalidRequest("suffix", "is not served; leave it unset")
    if body.echo and body.logprobs is not None and body.stream:
        raise InvalidRequest("logprobs", "must not be given with echo and stream together")
    if body.best_of is not None and body.stream:
        raise InvalidRequest("best_of", "must not be given with stream")


def _num_drawn(body: CompletionRequest) -> int:
    n = 1 if body.n is None else body.n
    if body.best_of is None:
        return n
    if body.best_of < n:
        raise InvalidRequest("best_of", f"must be at least n, which is {n}, got {body.best_of}")
    if n < 1:
        raise InvalidRequest("n", f"must be at least 1, got {n}")
    return body.best_of


def _prompts(body: CompletionRequest) -> list[Prompt]:
    """None where it imports modules."""
    given = body.prompt
    if given is None:
        return []
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [tuple(given)]
    return [entry if isinstance(entry, str) else tuple(entry) for entry in given]


def _importing_call(
    body: CompletionRequest,
    modules: ImportedModules,
    params: SamplingParams,
    options: RequestOptions,
) -> AskedCall:
    return GenerateCall(
        read_modules(modules),
        params,
        OutputOptions(echo=bool(body.echo)),
        options,
        has_max_tokens=body.max_tokens is not None,
    )


def _call(
    prompts: list[Prompt], params: SamplingParams, output: OutputOptions, options: RequestOptions
) -> AskedCall:
    """Several prompts are one tree, so that what they have in common is computed once."""
    if len(prompts) == 1:
        return GenerateCall(prompts[0], params, output, options)
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise InvalidRequest(f"prompt[{index}]", "must not be empty")
    branches = tuple(
        PromptTree(text=prompt, n=params.n)
        if isinstance(prompt, str)
        else PromptTree(token_ids=_as_ids(prompt), n=params.n)
        for prompt in prompts
    )
    trunk = PromptTree(branches=branches, n=0, params=replace(params, n=1), output=output)
    return TreeCall(trunk, options)


def _as_ids(prompt: Prompt) -> tuple[int, ...]:
    assert isinstance(prompt, tuple)
    return prompt


def _best(drawn: list[Drawn], num_samples: int) -> list[Drawn]:
    """Those with the highest mean log-probability, in that order; all, if no more were drawn."""
    if len(drawn) <= num_samples:
        return drawn

    def mean(sample: Drawn) -> float:
        return sum(entry.logprob for entry in sample.logprobs) / max(1, len(sample.logprobs))

    return sorted(drawn, key=mean, reverse=True)[:num_samples]
