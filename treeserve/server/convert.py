"""Turns protobuf messages into requests, and events and field names back into protobuf."""

from typing import Any

from treeserve.errors import InvalidRequest
from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents
from treeserve.server.wire import parse
from treeserve.types import (
    MAX_TREE_DEPTH,
    Delta,
    FinishReason,
    Prompt,
    PromptTree,
    SamplingParams,
    TokenLogprob,
    Usage,
)

_SECTIONS = {
    "sampling": ("temperature", "top_k", "top_p", "min_p", "seed"),
    "stopping": ("max_tokens", "ignore_eos"),
    "output": ("logprobs",),
}
"""Where the protobuf Parameters keep the optional fields of SamplingParams."""

_PROTO_PATHS = {
    name: f"params.{section}.{name}" for section, names in _SECTIONS.items() for name in names
} | {name: f"params.stopping.{name}" for name in ("stop", "stop_token_ids")}

_FINISH_REASONS = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORT: pb.FINISH_REASON_ABORT,
    FinishReason.ERROR: pb.FINISH_REASON_ERROR,
    FinishReason.DEADLINE: pb.FINISH_REASON_DEADLINE,
}


def read_generate(data: bytes) -> tuple[Prompt, SamplingParams]:
    """The prompt and parameters of a serialised GenerateRequest.

    Raises:
        InvalidRequest: If it is malformed or has no prompt. Ranges are checked later.
    """
    request = parse(pb.GenerateRequest, data)
    n = request.n if request.HasField("n") else None
    params = _read_params(request.params, n)
    match request.WhichOneof("prompt"):
        case "text":
            return request.text, params
        case "token_ids":
            return tuple(request.token_ids.ids), params
        case _:
            raise InvalidRequest("prompt", "must be given, as text or as token_ids")


def read_generate_tree(data: bytes) -> PromptTree:
    """The tree of a serialised GenerateTreeRequest.

    Raises:
        InvalidRequest: If it is malformed, too deep, or has no tree. Ranges are checked later.
    """
    request = parse(pb.GenerateTreeRequest, data)
    if not request.HasField("tree"):
        raise InvalidRequest("tree", "must be given")
    return _read_node(request.tree, "tree", 0)


def write_generate(events: PromptEvents) -> pb.GenerateResponse:
    """What is new of a single prompt."""
    return pb.GenerateResponse(
        samples=[_write_delta(delta) for delta in events.deltas], usage=_write_usage(events.usage)
    )


def write_generate_tree(events: PromptEvents) -> pb.GenerateTreeResponse:
    """What is new of one prompt of a tree."""
    return pb.GenerateTreeResponse(
        path=events.path,
        samples=[_write_delta(delta) for delta in events.deltas],
        usage=_write_usage(events.usage),
    )


def proto_path(field: str) -> str:
    """The path in the request message of a field as the public API names it.

    `max_tokens` is `params.stopping.max_tokens`; `tree.branches[1].prompt` is
    `tree.branches[1].text`.
    """
    node, dot, name = field.rpartition(".")
    bare, bracket, index = name.partition("[")
    if node and bare == "prompt":
        return f"{node}.text"
    return f"{node}{dot}{_PROTO_PATHS.get(bare, bare)}{bracket}{index}"


def _read_node(node: pb.TreeNode, path: str, depth: int) -> PromptTree:
    if depth > MAX_TREE_DEPTH:
        raise InvalidRequest(path, f"is deeper than {MAX_TREE_DEPTH} levels")
    return PromptTree(
        text=node.text,
        branches=tuple(
            _read_node(branch, f"{path}.branches[{index}]", depth + 1)
            for index, branch in enumerate(node.branches)
        ),
        n=node.n if node.HasField("n") else None,
        params=_read_params(node.params, None) if node.HasField("params") else None,
    )


def _read_params(message: pb.Parameters, n: int | None) -> SamplingParams:
    given: dict[str, Any] = {} if n is None else {"n": n}
    for section_name, names in _SECTIONS.items():
        section = getattr(message, section_name)
        given |= {name: getattr(section, name) for name in names if section.HasField(name)}
    return SamplingParams(
        stop=tuple(message.stopping.stop),
        stop_token_ids=tuple(message.stopping.stop_token_ids),
        **given,
    )


def _write_delta(delta: Delta) -> pb.SampleDelta:
    return pb.SampleDelta(
        index=delta.sample_index,
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=[_write_logprob(entry) for entry in delta.logprobs or ()],
        finish_reason=_FINISH_REASONS[delta.finish_reason],
    )


def _write_logprob(entry: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=entry.token_id,
        logprob=entry.logprob,
        top=[pb.TopLogprob(token_id=token_id, logprob=value) for token_id, value in entry.top],
    )


def _write_usage(usage: Usage | None) -> pb.Usage | None:
    if usage is None:
        return None
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        shared_in_flight_tokens=usage.shared_tokens,
        computed_tokens=usage.computed_tokens,
        completion_tokens=usage.completion_tokens,
    )
