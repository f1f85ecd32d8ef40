"""Turns request bytes into what the text service takes, and its field names into protobuf's."""

from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import Message as Protobuf

from treeserve.errors import InvalidRequest
from treeserve.module_prompt import ImportingPrompt
from treeserve.pb import generation_pb2 as pb
from treeserve.server.read_modules import read_importing
from treeserve.server.wire import parse
from treeserve.types import (
    MAX_TREE_DEPTH,
    Chat,
    Guidance,
    Message,
    OutputOptions,
    Prompt,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
)

_SECTIONS = {
    "sampling": (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "seed",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    ),
    "stopping": (
        "max_tokens",
        "ignore_eos",
        "include_stop",
        "min_tokens",
        "time_limit_seconds",
    ),
    "output": ("logprobs", "prompt_logprobs"),
}
"""Where the protobuf Parameters keep the optional fields of SamplingParams."""

_OUTPUTS = ("token_ids", "usage", "echo", "progress")

_PROTO_PATHS = (
    {name: f"params.{section}.{name}" for section, names in _SECTIONS.items() for name in names}
    | {name: f"params.stopping.{name}" for name in ("stop", "stop_token_ids")}
    | {name: f"params.output.{name}" for name in ("usage", "echo", "progress")}
    | {"logit_bias": "params.sampling.logit_bias"}
)


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """What a GenerateRequest asks for; ranges are not checked."""

    prompt: Prompt | ImportingPrompt
    params: SamplingParams
    output: OutputOptions
    options: RequestOptions
    has_max_tokens: bool = field(default=False, compare=False)
    """Whether the parameters say how many tokens are drawn, rather than by default."""


@dataclass(frozen=True, slots=True)
class TreeCall:
    """What a GenerateTreeRequest asks for; ranges are not checked."""

    tree: PromptTree
    options: RequestOptions
    modules: ImportingPrompt | None = None
    """What all its prompts import."""


@dataclass(frozen=True, slots=True)
class ForkCall:
    """What a ForkRequest asks for; ranges are not checked."""

    parent: SampleName
    num_tokens: int | None
    n: int
    params: SamplingParams | None
    output: OutputOptions | None
    options: RequestOptions


@dataclass(frozen=True, slots=True)
class AbortCall:
    """What an AbortRequest asks for."""

    request_id: str
    path: tuple[int, ...]
    sample_index: int | None


@dataclass(frozen=True, slots=True)
class TokenizeCall:
    """What a TokenizeRequest asks for."""

    prompt: str | Chat
    special_tokens: bool


@dataclass(frozen=True, slots=True)
class DetokenizeCall:
    """What a DetokenizeRequest asks for."""

    token_ids: tuple[int, ...]
    special_tokens: bool


def read_generate(data: bytes) -> GenerateCall:
    """Read a serialised GenerateRequest.

    Raises:
        InvalidRequest: If it is malformed or has no prompt. Ranges are checked later.
    """
    request = parse(pb.GenerateRequest, data)
    return GenerateCall(
        prompt=(
            read_importing(request.modules)
            if request.WhichOneof("prompt") == "modules"
            else _read_prompt(request, "as text, token_ids, chat or modules")
        ),
        params=_read_params(request.params, _optional(request, "n")),
        output=_read_output(request.params),
        options=_read_options(request.options),
        has_max_tokens=request.params.stopping.HasField("max_tokens"),
    )


def read_generate_tree(data: bytes) -> TreeCall:
    """Read a serialised GenerateTreeRequest; raises as read_generate(), and if it is too deep."""
    request = parse(pb.GenerateTreeRequest, data)
    if not request.HasField("tree"):
        raise InvalidRequest("tree", "must be given")
    options = replace(_read_options(request.options), public_trunk=request.public_trunk)
    modules = read_importing(request.modules) if request.HasField("modules") else None
    return TreeCall(_read_node(request.tree, "tree", 0), options, modules)


def read_fork(data: bytes) -> ForkCall:
    """Read a serialised ForkRequest; raises as read_generate()."""
    request = parse(pb.ForkRequest, data)
    if not request.parent.request_id:
        raise InvalidRequest("parent.request_id", "must be given")
    has_params = request.HasField("params")
    return ForkCall(
        parent=SampleName(
            request.parent.request_id, tuple(request.parent.path), request.parent.sample_index
        ),
        num_tokens=_optional(request.parent, "num_tokens"),
        n=request.n if request.HasField("n") else 1,
        params=_read_params(request.params, None) if has_params else None,
        output=_read_output(request.params) if has_params else None,
        options=_read_options(request.options),
    )


def read_abort(data: bytes) -> AbortCall:
    """Read a serialised AbortRequest; raises InvalidRequest if it is malformed or names nothing."""
    request = parse(pb.AbortRequest, data)
    if not request.request_id:
        raise InvalidRequest("request_id", "must be given")
    return AbortCall(request.request_id, tuple(request.path), _optional(request, "sample_index"))


def read_tokenize(data: bytes) -> TokenizeCall:
    """Read a serialised TokenizeRequest; raises InvalidRequest if it is malformed or empty."""
    request = parse(pb.TokenizeRequest, data)
    prompt = _read_prompt(request, "as text or chat")
    assert isinstance(prompt, str | Chat)
    return TokenizeCall(prompt, request.special_tokens or not request.HasField("special_tokens"))


def read_detokenize(data: bytes) -> DetokenizeCall:
    """Read a serialised DetokenizeRequest; raises InvalidRequest if it is malformed."""
    request = parse(pb.DetokenizeRequest, data)
    return DetokenizeCall(tuple(request.token_ids), request.special_tokens)


def read_count_tokens(data: bytes) -> Prompt | PromptTree | ImportingPrompt | TreeCall:
    """What a serialised CountTokensRequest asks to count; raises as read_generate_tree().

    A TreeCall is a tree whose prompts import modules.
    """
    request = parse(pb.CountTokensRequest, data)
    kind = request.WhichOneof("prompt")
    if kind == "tree":
        tree = _read_node(request.tree, "tree", 0)
        if not request.HasField("tree_modules"):
            return tree
        return TreeCall(tree, RequestOptions(), read_importing(request.tree_modules))
    if request.HasField("tree_modules"):
        raise InvalidRequest("tree_modules", "must be given with a tree alone")
    if kind == "modules":
        return read_importing(request.modules)
    return _read_prompt(request, "as text, token_ids, chat, tree or modules")


def proto_path(field: str) -> str:
    """The path in the request message of a field as the public API names it.

    `max_tokens` is `params.stopping.max_tokens`; `tree.branches[1].prompt` is
    `tree.branches[1].text`.
    """
    head, dot, tail = field.rpartition("guidance.")
    if dot:
        return f"{head}params.guidance.{tail.replace('choice[', 'choice.choices[')}"
    head, dot, tail = field.rpartition("messages[")
    if dot:
        return f"{head}chat.messages[{tail}"
    node, dot, name = field.rpartition(".")
    bare, bracket, index = name.partition("[")
    if node and bare == "prompt":
        return f"{node}.text"
    if node and not node.startswith("tree"):
        return field
    return f"{node}{dot}{_PROTO_PATHS.get(bare, bare)}{bracket}{index}"


def _read_prompt(request: Any, how: str) -> Prompt:
    match request.WhichOneof("prompt"):
        case "text":
            return str(request.text)
        case "token_ids":
            return tuple(request.token_ids.ids)
        case "chat":
            return Chat(_read_messages(request.chat))
    raise InvalidRequest("prompt", f"must be given, {how}")


def _read_messages(chat: pb.Chat) -> tuple[Message, ...]:
    return tuple(Message(entry.role, entry.content) for entry in chat.messages)


def _read_node(node: pb.TreeNode, path: str, depth: int) -> PromptTree:
    if depth > MAX_TREE_DEPTH:
        raise InvalidRequest(path, f"is deeper than {MAX_TREE_DEPTH} levels")
    has_params = node.HasField("params")
    return PromptTree(
        text=node.text,
        branches=tuple(
            _read_node(branch, f"{path}.branches[{index}]", depth + 1)
            for index, branch in enumerate(node.branches)
        ),
        n=_optional(node, "n"),
        params=_read_params(node.params, None) if has_params else None,
        token_ids=tuple(node.token_ids.ids),
        messages=_read_messages(node.chat),
        output=_read_output(node.params) if has_params else None,
    )


def _read_params(message: pb.Parameters, n: int | None) -> SamplingParams:
    given: dict[str, Any] = {} if n is None else {"n": n}
    for section_name, names in _SECTIONS.items():
        given |= _given(getattr(message, section_name), names)
    return SamplingParams(
        stop=tuple(message.stopping.stop),
        stop_token_ids=tuple(message.stopping.stop_token_ids),
        logit_bias=dict(message.sampling.logit_bias),
        guidance=_read_guidance(message),
        **given,
    )


def _read_guidance(message: pb.Parameters) -> Guidance | None:
    if not message.HasField("guidance"):
        return None
    match message.guidance.WhichOneof("guide"):
        case "choice":
            return Guidance("choice", tuple(message.guidance.choice.choices))
        case "json_schema":
            return Guidance("json_schema", message.guidance.json_schema)
        case "regex":
            return Guidance("regex", message.guidance.regex)
        case "grammar":
            return Guidance("grammar", message.guidance.grammar)
    raise InvalidRequest("guidance.guide", "must be json_schema, regex, choice or grammar")


def _read_output(message: pb.Parameters) -> OutputOptions:
    return OutputOptions(**_given(message.output, _OUTPUTS))


def _read_options(message: pb.RequestOptions) -> RequestOptions:
    return RequestOptions(group=message.group, **_given(message, ("request_id", "priority")))


def _given(message: Protobuf, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields that are set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _optional(message: Protobuf, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None
