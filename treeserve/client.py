"""Clients of a treeserve server, synchronous and asynchronous, in the words of the Python API."""

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from treeserve.errors import InvalidRequest, TreeserveError
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc as pb_grpc
from treeserve.types import (
    Chat,
    Delta,
    Finished,
    FinishReason,
    Guidance,
    Prompt,
    PromptTree,
    SampleTimings,
    SamplingParams,
    TokenLogprob,
    Usage,
)

Item: TypeAlias = Delta | Finished

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
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "include_stop",
        "min_tokens",
        "time_limit_seconds",
    ),
    "output": ("logprobs",),
}
"""Where the protobuf Parameters keep the fields of SamplingParams."""

_REASONS = {
    pb.FINISH_REASON_UNSPECIFIED: None,
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_ABORT: FinishReason.ABORT,
    pb.FINISH_REASON_ERROR: FinishReason.ERROR,
    pb.FINISH_REASON_DEADLINE: FinishReason.DEADLINE,
    pb.FINISH_REASON_TIME_LIMIT: FinishReason.TIME_LIMIT,
}

_STATUS_DETAILS = "grpc-status-details-bin"


class RemoteError(TreeserveError):
    """A call that failed at the server, or never reached it.

    Attributes:
        code: Name of the gRPC status, such as "UNAVAILABLE".
    """

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


class Client:
    """A connection that is used by blocking calls; close it, or use it in a `with` statement.

    Args:
        address: The server's "host:port".

    Example:
        >>> with Client("127.0.0.1:50051") as client:
        ...     for item in client.generate("Read a number.", SamplingParams(n=4)):
        ...         print(item)
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub: Any = pb_grpc.GenerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs."""
        self._channel.close()

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> Generator[Item, None, None]:
        """Deltas of one prompt's samples, and its usage last; closing the iterator cancels them.

        Raises:
            InvalidRequest: Names the field and the limit.
            RemoteError: Anything else that goes wrong.
        """
        request = _write_generate(prompt, params or SamplingParams())
        yield from _items(self._stub.Generate(request, timeout=timeout_seconds))

    def generate_tree(
        self, tree: PromptTree, *, timeout_seconds: float | None = None
    ) -> Generator[Item, None, None]:
        """Deltas of a tree's samples, each node's usage after its last one; as generate()."""
        request = pb.GenerateTreeRequest(tree=_write_node(tree, "tree"))
        yield from _items(self._stub.GenerateTree(request, timeout=timeout_seconds))


class AsyncClient:
    """The same for asyncio; belongs to the event loop in which it is built.

    Args:
        address: The server's "host:port".
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub: Any = pb_grpc.GenerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what still runs."""
        await self._channel.close(None)

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Item, None]:
        """As Client.generate."""
        request = _write_generate(prompt, params or SamplingParams())
        async for item in _items_async(self._stub.Generate(request, timeout=timeout_seconds)):
            yield item

    async def generate_tree(
        self, tree: PromptTree, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Item, None]:
        """As Client.generate_tree."""
        request = pb.GenerateTreeRequest(tree=_write_node(tree, "tree"))
        async for item in _items_async(self._stub.GenerateTree(request, timeout=timeout_seconds)):
            yield item


def _items(call: Any) -> Generator[Item, None, None]:
    try:
        for response in call:
            yield from _read(response)
    except grpc.RpcError:
        raise _error(call.code(), call.details(), call.trailing_metadata()) from None
    finally:
        call.cancel()


async def _items_async(call: Any) -> AsyncGenerator[Item, None]:
    try:
        async for response in call:
            for item in _read(response):
                yield item
    except grpc.aio.AioRpcError as error:
        raise _error(error.code(), error.details(), error.trailing_metadata()) from None
    finally:
        call.cancel()


def _write_generate(prompt: Prompt, params: SamplingParams) -> pb.GenerateRequest:
    request = pb.GenerateRequest(params=_write_params(params, ""))
    _set(request, "n", params.n, "n")
    if isinstance(prompt, str):
        _set(request, "text", prompt, "prompt")
    elif isinstance(prompt, Chat):
        _write_chat(request.chat, prompt, "")
    else:
        request.token_ids.SetInParent()
        _extend(request.token_ids.ids, prompt, "prompt")
    return request


def _write_node(tree: PromptTree, path: str) -> pb.TreeNode:
    branches = [
        _write_node(branch, f"{path}.branches[{index}]")
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
        node.params.CopyFrom(_write_params(tree.params, f"{path}."))
    return node


def _write_chat(message: pb.Chat, chat: Chat, prefix: str) -> None:
    message.SetInParent()
    for index, turn in enumerate(chat.messages):
        entry = message.messages.add()
        _set(entry, "role", turn.role, f"{prefix}messages[{index}].role")
        _set(entry, "content", turn.content, f"{prefix}messages[{index}].content")


def _write_params(params: SamplingParams, prefix: str) -> pb.Parameters:
    message = pb.Parameters()
    for section_name, names in _SECTIONS.items():
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


def _read(response: pb.GenerateResponse | pb.GenerateTreeResponse) -> Iterator[Item]:
    path = tuple(response.path) if isinstance(response, pb.GenerateTreeResponse) else ()
    for sample in response.samples:
        yield _read_delta(path, sample)
    if response.HasField("usage"):
        yield Finished(path, _read_usage(response.usage))


def _read_delta(path: tuple[int, ...], sample: pb.SampleDelta) -> Delta:
    logprobs = tuple(_read_logprob(entry) for entry in sample.logprobs)
    return Delta(
        path=path,
        sample_index=sample.index,
        text=sample.text,
        token_ids=tuple(sample.token_ids),
        logprobs=logprobs or None,
        finish_reason=_REASONS[sample.finish_reason],
        stop_match=getattr(sample, stop) if (stop := sample.WhichOneof("stop")) else None,
        num_tokens=sample.num_tokens,
        timings=_read_timings(sample.timings) if sample.HasField("timings") else None,
    )


def _read_timings(timings: pb.SampleTimings) -> SampleTimings:
    return SampleTimings(
        queue_seconds=timings.queue_seconds,
        first_token_seconds=timings.first_token_seconds,
        total_seconds=timings.total_seconds,
        seconds_per_token=timings.seconds_per_token,
    )


def _read_logprob(entry: pb.TokenLogprob) -> TokenLogprob:
    top = tuple((other.token_id, other.logprob) for other in entry.top)
    return TokenLogprob(entry.token_id, entry.logprob, top, entry.rank)


def _read_usage(usage: pb.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        shared_tokens=usage.shared_in_flight_tokens,
        computed_tokens=usage.computed_tokens,
        completion_tokens=usage.completion_tokens,
        recomputed_tokens=usage.recomputed_tokens,
    )


def _error(code: grpc.StatusCode, details: str | None, metadata: Any) -> TreeserveError:
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        for key, value in metadata or ():
            if key == _STATUS_DETAILS:
                return _invalid_request(status_pb2.Status.FromString(value), details)
    return RemoteError(code.name, details or "no details")


def _invalid_request(status: status_pb2.Status, details: str | None) -> TreeserveError:
    for detail in status.details:
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request) and bad_request.field_violations:
            violation = bad_request.field_violations[0]
            return InvalidRequest(_field_name(violation.field), violation.description)
    return RemoteError("INVALID_ARGUMENT", details or "no details")


def _field_name(path: str) -> str:
    """The name in the Python API of a field of the messages."""
    for section in _SECTIONS:
        path = path.replace(f"params.{section}.", "")
    path = path.replace("params.guidance.", "guidance.").replace("chat.messages[", "messages[")
    path = path.replace("choice.choices[", "choice[")
    if path.startswith("tree") and path.endswith(".text"):
        return f"{path.removesuffix('.text')}.prompt"
    return path
