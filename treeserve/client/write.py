"""Writes request messages from values of the Python API."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from treeserve.client.sections import OUTPUTS, SECTIONS
from treeserve.errors import InvalidRequest
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import prefix_pb2
from treeserve.types import (
    Chat,
    Guidance,
    OutputOptions,
    Prompt,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
)


def write_generate(
    prompt: Prompt, params: SamplingParams, output: OutputOptions | None, options: RequestOptions
) -> pb.GenerateRequest:
    """A request for samples after one prompt; n is that of the parameters.

    Raises:
        InvalidRequest: A value does not even fit the message; names the field.
    """
    request = pb.GenerateRequest(params=write_params(params, ""))
    _set(request, "n", params.n, "n")
    _write_prompt(request, prompt)
    _write_output(request.params, output)
    _write_options(request.options, options)
    return request


def write_generate_tree(tree: PromptTree, options: RequestOptions) -> pb.GenerateTreeRequest:
    """A request for samples of a tree; raises as write_generate()."""
    request = pb.GenerateTreeRequest(tree=write_node(tree, "tree"))
    _write_options(request.options, options)
    if options.public_trunk:
        request.public_trunk = True
    return request


def write_fork(
    parent: SampleName,
    at: int | None,
    n: int,
    params: SamplingParams | None,
    output: OutputOptions | None,
    options: RequestOptions,
) -> pb.ForkRequest:
    """A request for branches of a sample; raises as write_generate(), and for output alone."""
    if params is None and output is not None:
        raise InvalidRequest("output", "needs params too: a branch is told as its parent without")
    request = pb.ForkRequest()
    _set(request.parent, "request_id", parent.request_id, "parent.request_id")
    _extend(request.parent.path, parent.path, "parent.path")
    _set(request.parent, "sample_index", parent.sample_index, "parent.sample_index")
    if at is not None:
        _set(request.parent, "num_tokens", at, "at")
    _set(request, "n", n, "n")
    if params is not None:
        request.params.CopyFrom(write_params(params, ""))
        _write_output(request.params, output)
    _write_options(request.options, options)
    return request


def write_abort(request_id: str, path: Sequence[int], sample_index: int | None) -> pb.AbortRequest:
    """A request for an end; raises as write_generate()."""
    request = pb.AbortRequest()
    _set(request, "request_id", request_id, "request_id")
    _extend(request.path, path, "path")
    if sample_index is not None:
        _set(request, "sample_index", sample_index, "sample_index")
    return request


def write_tokenize(prompt: str | Chat, special_tokens: bool) -> pb.TokenizeRequest:
    """A request for the token ids of a text or a chat; raises as write_generate()."""
    request = pb.TokenizeRequest(special_tokens=special_tokens)
    _write_prompt(request, prompt)
    return request


def write_detokenize(token_ids: Sequence[int], special_tokens: bool) -> pb.DetokenizeRequest:
    """A request for the text of token ids; raises as write_generate()."""
    request = pb.DetokenizeRequest(special_tokens=special_tokens)
    _extend(request.token_ids, token_ids, "token_ids")
    return request


def write_count_tokens(prompt: Prompt | PromptTree) -> pb.CountTokensRequest:
    """A request for the number of tokens; raises as write_generate()."""
    if isinstance(prompt, PromptTree):
        return pb.CountTokensRequest(tree=write_node(prompt, "tree"))
    request = pb.CountTokensRequest()
    _write_prompt(request, prompt)
    return request


def write_prefix(content: str | Sequence[int]) -> prefix_pb2.Prefix:
    """A prefix; raises as write_generate()."""
    prefix = prefix_pb2.Prefix()
    if isinstance(content, str):
        _set(prefix, "text", content, "prefix")
    else:
        prefix.token_ids.SetInParent()
        _extend(prefix.token_ids.ids, content, "prefix")
    return prefix


def write_fields(message: Message, **values: object) -> None:
    """Set the fields that are not None; raises as write_generate()."""
    for name, value in values.items():
        if value is not None:
            _set(message, name, value, name)


def _write_prompt(request: Any, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        _set(request, "text", prompt, "prompt")
    elif isinstance(prompt, Chat):
        _write_chat(request.chat, prompt, "")
    else:
        request.token_ids.SetInParent()
        _extend(request.token_ids.ids, prompt, "prompt")


def _write_options(message: pb.RequestOptions, options: RequestOptions) -> None:
    """Left unset where they are the defaults."""
    if options.request_id is not None:
        _set(message, "request_id", options.request_id, "request_id")
    if options.priority:
        _set(message, "priority", options.priority, "priority")
    if options.group:
        _set(message, "group", options.group, "group")


def _write_output(message: pb.Parameters, output: OutputOptions | None) -> None:
    for name in OUTPUTS if output is not None else ():
        setattr(message.output, name, getattr(output, name))


def write_node(tree: PromptTree, path: str) -> pb.TreeNode:
    branches = [
        write_node(branch, f"{path}.branches[{index}]")
        for index, branch in enumerate(tree.branches)
    ]
    node = pb.TreeNode(branches=branches)
    if tree.text:
        _set(node, "text", tree.text, f"{path}.prompt")
    elif tree.messages:
        _write_chat(node.chat, Chat(tree.messages), f"{path}.")
    elif tree.token_ids:
        _extend(node.token_ids.ids, tree.token_ids, f"{path}.prompt")
    if tree.n is not None:
        _set(node, "n", tree.n, f"{path}.n")
    if tree.params is not None:
        node.params.CopyFrom(write_params(tree.params, f"{path}."))
    if tree.output is not None:
        if tree.params is None:
            raise InvalidRequest(f"{path}.output", "needs params too: they are told together")
        _write_output(node.params, tree.output)
    return node


def _write_chat(message: pb.Chat, chat: Chat, prefix: str) -> None:
    message.SetInParent()
    for index, turn in enumerate(chat.messages):
        entry = message.messages.add()
        _set(entry, "role", turn.role, f"{prefix}messages[{index}].role")
        _set(entry, "content", turn.content, f"{prefix}messages[{index}].content")


def write_params(params: SamplingParams, prefix: str) -> pb.Parameters:
    message = pb.Parameters()
    for section_name, names in SECTIONS.items():
        section = getattr(message, section_name)
        for name in names:
            value = getattr(params, name)
            if isinstance(value, tuple | list):
                _extend(getattr(section, name), value, f"{prefix}{name}")
            elif value is not None:
                _set(section, name, value, f"{prefix}{name}")
    for token_id, bias in params.logit_bias.items():
        try:
            message.sampling.logit_bias[token_id] = bias
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{prefix}logit_bias", _reason(token_id, error)) from None
    if params.guidance is not None:
        _write_guidance(message.guidance, params.guidance, f"{prefix}guidance.")
    return message


def _write_guidance(message: pb.Guidance, guidance: Guidance, prefix: str) -> None:
    if isinstance(guidance.source, str):
        _set(message, guidance.kind, guidance.source, f"{prefix}{guidance.kind}")
    else:
        message.choice.SetInParent()
        _extend(message.choice.choices, guidance.source, f"{prefix}choice")


def _set(message: Message, name: str, value: object, field: str) -> None:
    """Set a field; a value that does not even fit the message is the caller's error."""
    try:
        setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(field, _reason(value, error)) from None


def _extend(entries: Any, values: Sequence[object], field: str) -> None:
    for index, value in enumerate(values):
        try:
            entries.append(value)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{field}[{index}]", _reason(value, error)) from None


def _reason(value: object, error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"is not valid Unicode text: character {error.start} is half a character"
    return f"is out of range, got {value!r}"
