"""Calls over gRPC as a light client makes them: what came back, when, and whether it adds up."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio

from treeserve.bench.serve.workloads import Call
from treeserve.pb import generation_pb2 as pb
from treeserve.types import PromptTree

_SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
_MAX_MESSAGE_BYTES = 64 << 20


@dataclass(slots=True)
class SampleRecord:
    """One sample as its reader saw it; seconds on the clock of time.perf_counter()."""

    first_token: float
    last_token: float
    num_tokens: int = 0
    finish_reason: int = pb.FINISH_REASON_UNSPECIFIED

    @property
    def seconds_per_token(self) -> float | None:
        """None: it has one token, or none."""
        later = self.num_tokens - 1
        return (self.last_token - self.first_token) / later if later > 0 else None


@dataclass(slots=True)
class CallRecord:
    """One call as its caller saw it."""

    due: float
    """When it was to be sent: what latencies count from."""
    sent: float
    end: float = 0.0
    status: str = "OK"
    details: str = ""
    wrong: str = ""
    """What is wrong with an answer whose status is OK."""
    samples: dict[tuple[int, ...], SampleRecord] = field(default_factory=dict)
    num_messages: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    completion_tokens: int = 0
    """As the server says."""

    @property
    def is_good(self) -> bool:
        return self.status == "OK" and not self.wrong


@dataclass(slots=True)
class Meter:
    """Counts what arrives within a window of time."""

    start: float
    end: float
    tokens: int = 0
    messages: int = 0

    def see(self, now: float, num_tokens: int) -> None:
        if self.start <= now < self.end:
            self.tokens += num_tokens
            self.messages += 1


@dataclass(frozen=True, slots=True)
class Request:
    """A call in bytes, so that serialising is no part of what is timed."""

    call: Call
    is_tree: bool
    data: bytes


class AnyCaller(Protocol):
    """Makes calls through one door of a server."""

    def request(self, call: Call) -> Request:
        """The call as it goes over the wire."""
        ...

    async def make(self, request: Request, due: float, meter: Meter) -> CallRecord:
        """Make one call to its end; an error is part of its record."""
        ...


class Caller:
    """Makes calls over one connection to the gRPC door.

    Args:
        channel: Open.
        timeout_seconds: The deadline of every call.
    """

    def __init__(self, channel: "grpc.aio.Channel", timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._generate: Any = channel.unary_stream(
            f"/{_SERVICE}/Generate",
            request_serializer=None,
            response_deserializer=pb.GenerateResponse.FromString,
        )
        self._generate_tree: Any = channel.unary_stream(
            f"/{_SERVICE}/GenerateTree",
            request_serializer=None,
            response_deserializer=pb.GenerateTreeResponse.FromString,
        )

    def request(self, call: Call) -> Request:
        """The call as it goes over the wire."""
        return make_request(call)

    async def make(self, request: Request, due: float, meter: Meter) -> CallRecord:
        """Make one call to its end; an error is part of its record."""
        now = time.perf_counter()
        record = CallRecord(due=due, sent=now)
        method = self._generate_tree if request.is_tree else self._generate
        call = method(request.data, timeout=self._timeout_seconds)
        try:
            async for response in call:
                now = time.perf_counter()
                meter.see(now, _read(response, request.is_tree, now, record))
            record.wrong = what_is_wrong(request.call, record)
        except grpc.aio.AioRpcError as error:
            record.status, record.details = error.code().name, error.details() or ""
        finally:
            call.cancel()
        record.end = time.perf_counter()
        return record


@asynccontextmanager
async def connected(address: str, timeout_seconds: float) -> AsyncIterator[Caller]:
    """A connection of its own, closed at the end with all its calls."""
    options = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    )
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Caller(channel, timeout_seconds)


def make_request(call: Call) -> Request:
    """The call as it goes over the wire."""
    if call.tree.branches:
        tree = pb.GenerateTreeRequest(tree=_node(call.tree))
        return Request(call, True, tree.SerializeToString())
    single = pb.GenerateRequest(text=call.tree.text, n=call.num_samples, params=_params(call.tree))
    return Request(call, False, single.SerializeToString())


def _node(tree: PromptTree) -> pb.TreeNode:
    branches = [_node(branch) for branch in tree.branches]
    return pb.TreeNode(text=tree.text, n=tree.n, params=_params(tree), branches=branches)


def _params(tree: PromptTree) -> pb.Parameters | None:
    params = tree.params
    if params is None:
        return None
    return pb.Parameters(
        sampling=pb.Sampling(seed=params.seed),
        stopping=pb.Stopping(max_tokens=params.max_tokens, ignore_eos=params.ignore_eos),
    )


def _read(response: Any, is_tree: bool, now: float, record: CallRecord) -> int:
    """Take in one message; its tokens."""
    record.num_messages += 1
    path = tuple(response.path) if is_tree else ()
    num_tokens = 0
    for delta in response.samples:
        sample = record.samples.get((*path, delta.index))
        if sample is None:
            sample = record.samples[(*path, delta.index)] = SampleRecord(now, now)
        sample.last_token = now
        sample.num_tokens += len(delta.token_ids)
        num_tokens += len(delta.token_ids)
        if delta.finish_reason:
            sample.finish_reason = delta.finish_reason
    if response.HasField("usage"):
        record.prompt_tokens += response.usage.prompt_tokens
        record.computed_tokens += response.usage.computed_tokens
        record.completion_tokens += response.usage.completion_tokens
    return num_tokens


def what_is_wrong(call: Call, record: CallRecord) -> str:
    """Of a call that ended in good order; empty: nothing."""
    if len(record.samples) != call.num_samples:
        return f"{len(record.samples)} samples came, asked for {call.num_samples}"
    for key, sample in record.samples.items():
        if sample.finish_reason != pb.FINISH_REASON_LENGTH:
            reason = pb.FinishReason.Name(sample.finish_reason)
            return f"sample {key} ended with {reason}, not with FINISH_REASON_LENGTH"
        if sample.num_tokens != call.max_tokens:
            return f"sample {key} has {sample.num_tokens} tokens, asked for {call.max_tokens}"
    if record.completion_tokens != call.num_drawn_tokens:
        return f"usage says {record.completion_tokens} tokens, {call.num_drawn_tokens} came"
    if record.prompt_tokens < 1:
        return "there is no usage of the prompt"
    return ""
