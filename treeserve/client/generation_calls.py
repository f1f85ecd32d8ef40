"""The calls of GenerationService and of health, from values of the Python API."""

from collections.abc import Iterator, Sequence

from grpc_health.v1 import health_pb2

from treeserve.client.call import Call
from treeserve.client.module_calls import write_importing
from treeserve.client.read import read_counts, read_events
from treeserve.client.write import (
    write_abort,
    write_count_tokens,
    write_detokenize,
    write_fork,
    write_generate,
    write_generate_tree,
    write_tokenize,
)
from treeserve.module_prompt import ImportingPrompt
from treeserve.pb import generation_pb2 as pb
from treeserve.types import (
    Chat,
    OutputOptions,
    Prompt,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
    StreamEvent,
    TokenCounts,
)

Events = Iterator[StreamEvent]
DEFAULTS = RequestOptions()


def generate(
    prompt: Prompt | ImportingPrompt,
    params: SamplingParams | None,
    output: OutputOptions | None,
    options: RequestOptions,
) -> Call[Events]:
    """Samples of one prompt. With a seed it tells the same again, unless its id is in use."""
    params = params or SamplingParams()
    if isinstance(prompt, ImportingPrompt):
        request = write_generate("", params, output, options)
        write_importing(request.modules, prompt)
        if isinstance(prompt.prompt, str) and params == SamplingParams(n=params.n):
            # Then the PML says how many tokens, if it does.
            request.params.stopping.ClearField("max_tokens")
    else:
        request = write_generate(prompt, params, output, options)
    exact = params.seed is not None and options.request_id is None
    return Call("generation", "Generate", request, read_events, repeats_exactly=exact)


def generate_tree(
    tree: PromptTree, options: RequestOptions, modules: ImportingPrompt | None = None
) -> Call[Events]:
    """Samples of a tree of prompts, which may all import the same modules."""
    request = write_generate_tree(tree, options)
    if modules is not None:
        write_importing(request.modules, modules)
    exact = options.request_id is None and all(_seeds(tree, None))
    return Call("generation", "GenerateTree", request, read_events, repeats_exactly=exact)


def fork(
    parent: SampleName,
    at: int | None,
    n: int,
    params: SamplingParams | None,
    output: OutputOptions | None,
    options: RequestOptions,
) -> Call[Events]:
    """Samples that go on from a token of another; without `at`, the parent may have grown since."""
    request = write_fork(parent, at, n, params, output, options)
    has_seed = params is not None and params.seed is not None
    exact = at is not None and has_seed and options.request_id is None
    return Call("generation", "Fork", request, read_events, repeats_exactly=exact)


def abort(request_id: str, path: Sequence[int], sample_index: int | None) -> Call[int]:
    """The number of samples that it ended."""
    request = write_abort(request_id, path, sample_index)
    return Call("generation", "Abort", request, lambda response: int(response.ended_samples))


def tokenize(prompt: str | Chat, special_tokens: bool) -> Call[tuple[int, ...]]:
    """Token ids of a text or a chat."""
    request = write_tokenize(prompt, special_tokens)
    return Call("generation", "Tokenize", request, lambda response: tuple(response.token_ids))


def detokenize(token_ids: Sequence[int], special_tokens: bool) -> Call[str]:
    """The text of token ids."""
    request = write_detokenize(token_ids, special_tokens)
    return Call("generation", "Detokenize", request, lambda response: str(response.text))


def count_tokens(
    prompt: Prompt | PromptTree | ImportingPrompt, modules: ImportingPrompt | None
) -> Call[TokenCounts]:
    """Tokens of a prompt or a tree, whose prompts may all import the same modules."""
    if isinstance(prompt, ImportingPrompt):
        request = pb.CountTokensRequest()
        write_importing(request.modules, prompt)
    else:
        request = write_count_tokens(prompt)
    if modules is not None:
        write_importing(request.tree_modules, modules)
    return Call("generation", "CountTokens", request, read_counts)


def is_serving() -> Call[bool]:
    """Whether the server takes calls."""
    return Call("health", "Check", health_pb2.HealthCheckRequest(), _read_health)


def _read_health(response: health_pb2.HealthCheckResponse) -> bool:
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def _seeds(tree: PromptTree, inherited: SamplingParams | None) -> Iterator[bool]:
    """Of every node: whether what it draws has a seed."""
    params = tree.params or inherited
    yield params is not None and params.seed is not None
    for branch in tree.branches:
        yield from _seeds(branch, params)
