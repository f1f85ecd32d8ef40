"""The methods of GenerationService, from request bytes to messages."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents, batched, ends_late
from treeserve.server.config import ServerConfig
from treeserve.server.contract import EventStream, TextService
from treeserve.server.convert import (
    read_abort,
    read_count_tokens,
    read_detokenize,
    read_fork,
    read_generate,
    read_generate_tree,
    read_tokenize,
)
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.generating import AskedCall, Generating, Known
from treeserve.server.identity import Identity, Permission
from treeserve.server.refusals import DeadlinePassed
from treeserve.server.respond import GenerateWriter, TreeWriter, write_counts
from treeserve.types import RequestOptions

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[bytes, Message]
_Read: TypeAlias = Callable[[], AskedCall]
_Write: TypeAlias = Callable[[PromptEvents], Message]
_Answer: TypeAlias = Callable[[TextService, Call], Message]


class _Writer(Protocol):
    """Writes the messages of one call."""

    def write(self, events: PromptEvents) -> Message: ...


class GenerationService:
    """Answers gRPC calls; a call's failure ends that call alone.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
        generating: Starts what is asked for.
        config: How much a slow reader may leave unread.
    """

    def __init__(
        self, doors: Doors, endings: Endings, generating: Generating, config: ServerConfig
    ) -> None:
        self._doors = doors
        self._endings = endings
        self._generating = generating
        self._config = config

    def handler(self) -> "grpc.GenericRpcHandler[bytes, Message]":
        """To be added to a grpc.aio server; requests stay bytes until they are checked here."""
        streams = {
            "Generate": self._generate,
            "GenerateTree": self._generate_tree,
            "Fork": self._fork,
        }
        answers = {
            "Abort": self._abort,
            "Tokenize": self._tokenize,
            "Detokenize": self._detokenize,
            "CountTokens": self._count_tokens,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {name: _streaming(method) for name, method in streams.items()}
            | {name: _unary(method) for name, method in answers.items()},
        )

    async def _generate(self, data: bytes, context: Context) -> None:
        await self._stream("Generate", context, partial(read_generate, data), GenerateWriter())

    async def _generate_tree(self, data: bytes, context: Context) -> None:
        await self._stream("GenerateTree", context, partial(read_generate_tree, data), TreeWriter())

    async def _fork(self, data: bytes, context: Context) -> None:
        await self._stream("Fork", context, partial(read_fork, data), GenerateWriter())

    async def _abort(self, data: bytes, context: Context) -> Message:
        """Not admitted like other calls: it makes room, and finds what runs while others drain."""
        num_ended = 0
        async with self._known("Abort", context) as known:
            asked = read_abort(data)
            ended = self._generating.ready().abort(
                asked.request_id,
                asked.path,
                asked.sample_index,
                namespace=known.came.namespace,
            )
            num_ended = ended if isinstance(ended, int) else await ended
        return pb.AbortResponse(ended_samples=num_ended)

    async def _tokenize(self, data: bytes, context: Context) -> Message | None:
        def answer(service: TextService, call: Call) -> Message:
            asked = read_tokenize(data)
            token_ids = service.tokenize(asked.prompt, special_tokens=asked.special_tokens)
            return pb.TokenizeResponse(token_ids=token_ids)

        return await self._answer("Tokenize", context, answer)

    async def _detokenize(self, data: bytes, context: Context) -> Message | None:
        def answer(service: TextService, call: Call) -> Message:
            asked = read_detokenize(data)
            text = service.detokenize(asked.token_ids, special_tokens=asked.special_tokens)
            return pb.DetokenizeResponse(text=text)

        return await self._answer("Detokenize", context, answer)

    async def _count_tokens(self, data: bytes, context: Context) -> Message | None:
        def answer(service: TextService, call: Call) -> Message:
            return write_counts(self._generating.count(call, read_count_tokens(data)))

        return await self._answer("CountTokens", context, answer)

    async def _stream(self, method: str, context: Context, read: _Read, writer: _Writer) -> None:
        async with self._known(method, context) as known:
            with known.call.enter():
                stream = await self._generating.open(known, read)
                async with aclosing(stream) as events:
                    await self._send(events, context, writer.write)

    async def _send(self, events: EventStream, context: Context, write: _Write) -> None:
        is_late = False
        # A refused call ends here, before any header is sent: its client may try again.
        first = await anext(events, None)
        await _send_headers(context)
        most = self._config.load.max_buffered_bytes
        async with batched(events, most, first, self._generating.hold_seconds) as batches:
            async for batch in batches:
                for prompt_events in batch:
                    await context.write(write(prompt_events))
                    is_late = is_late or ends_late(prompt_events)
        if is_late:
            raise DeadlinePassed("the deadline passed before all samples had ended")

    async def _answer(self, method: str, context: Context, answer: _Answer) -> Message | None:
        response: Message | None = None
        async with self._known(method, context) as known:
            with known.call.enter():
                service = self._generating.ready()
                response = await self._generating.tokenise(partial(answer, service, known.call))
        return response

    @asynccontextmanager
    async def _known(self, method: str, context: Context) -> AsyncIterator[Known]:
        """While a call runs whose caller may generate; what it raises ends it, and goes no further.

        The body may not come to its end, and what follows it is done all the same.
        """
        async with self._endings.of(SERVICE_NAME, method, context) as record:
            record.identity = self._doors.doorkeeper.identify(context)
            call = Call(record, self._doors)
            call.require(Permission.GENERATE)
            yield Known(call, _options(context, call.identity))


def _options(context: Context, identity: Identity) -> RequestOptions:
    """When a call came, when it has to end, and whose it is."""
    now = time.monotonic()
    left = context.time_remaining()
    return RequestOptions(
        arrived_at=now,
        deadline=None if left is None else now + left,
        namespace=identity.tenant,
        tenant=identity.tenant,
    )


async def _send_headers(context: Context) -> None:
    """By themselves, and to the end.

    gRPC sends them with the first message otherwise. Were that one cut off, as a slow reader's is,
    gRPC would send them once more with the status, which ends in an error that the caller never
    hears of.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(()))
    # It fails where the caller has gone, and then its own call is cancelled and asks no more.
    sending.add_done_callback(lambda sent: sent.cancelled() or sent.exception())
    try:
        await asyncio.shield(sending)
    finally:
        await asyncio.wait([sending])


def _streaming(
    method: Callable[[bytes, Context], Awaitable[None]],
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_stream_rpc_method_handler(
        method,
        request_deserializer=None,
        response_serializer=lambda message: message.SerializeToString(),
    )


def _unary(
    method: Callable[[bytes, Context], Awaitable[Message | None]],
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(
        method,
        request_deserializer=None,
        response_serializer=lambda message: message.SerializeToString(),
    )
