"""The methods of GenerationService, from request bytes to messages."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from treeserve.errors import EngineStopped
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents, batched
from treeserve.server.call_log import text_of
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
from treeserve.server.identity import Identity, Permission
from treeserve.server.measure import measured
from treeserve.server.refusals import DeadlinePassed
from treeserve.server.respond import GenerateWriter, TreeWriter, write_counts
from treeserve.types import FinishReason, Prompt, PromptTree, RequestOptions

ResultT = TypeVar("ResultT")

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name

_LONGEST_HOLD_SECONDS = 0.1
"""Between two messages of a stream: what somebody who reads along does not mind."""

Context: TypeAlias = grpc.aio.ServicerContext[bytes, Message]
_Start: TypeAlias = Callable[["_Known", TextService], EventStream]
_Write: TypeAlias = Callable[[PromptEvents], Message]
_Answer: TypeAlias = Callable[[TextService], Message]


class _Known(NamedTuple):
    """A call whose caller may make it, and what is known before its request is read."""

    call: Call
    came: RequestOptions
    """When it came, when it has to end, and whose it is."""

    def joined(self, asked: RequestOptions) -> RequestOptions:
        """What the request asks for, with what is known of its call."""
        return replace(
            asked,
            arrived_at=self.came.arrived_at,
            deadline=self.came.deadline,
            namespace=self.came.namespace,
            tenant=self.came.tenant,
        )


class GenerationService:
    """Answers calls from a text service that arrives when the model is loaded.

    A call's failure ends that call alone. Texts are tokenised in one thread of their own, so that
    a long prompt does not hold up the streams.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
        metrics: Told of every stream.
        config: How much a slow reader may leave unread, and whether prompts are logged.
    """

    def __init__(
        self, doors: Doors, endings: Endings, metrics: Metrics, config: ServerConfig
    ) -> None:
        self.text_service: TextService | None = None
        self._doors = doors
        self._endings = endings
        self._metrics = metrics
        self._config = config
        self._tokenising = ThreadPoolExecutor(1, thread_name_prefix="treeserve-tokenise")

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

    def close(self) -> None:
        self._tokenising.shutdown(wait=False, cancel_futures=True)

    async def _generate(self, data: bytes, context: Context) -> None:
        def start(known: _Known, service: TextService) -> EventStream:
            asked = read_generate(data)
            self._log_prompt(known.call, asked.prompt)
            return service.generate(
                asked.prompt,
                asked.params,
                output=asked.output,
                options=known.joined(asked.options),
                admit=known.call.admit,
            )

        await self._stream("Generate", context, start, GenerateWriter().write)

    async def _generate_tree(self, data: bytes, context: Context) -> None:
        def start(known: _Known, service: TextService) -> EventStream:
            asked = read_generate_tree(data)
            if asked.options.public_trunk:
                known.call.require(Permission.PUBLISH)
            self._log_prompt(known.call, asked.tree)
            options = known.joined(asked.options)
            return service.generate_tree(asked.tree, options=options, admit=known.call.admit)

        await self._stream("GenerateTree", context, start, TreeWriter().write)

    async def _fork(self, data: bytes, context: Context) -> None:
        def start(known: _Known, service: TextService) -> EventStream:
            asked = read_fork(data)
            return service.fork(
                asked.parent,
                asked.num_tokens,
                asked.params,
                n=asked.n,
                output=asked.output,
                options=known.joined(asked.options),
                admit=known.call.admit,
            )

        await self._stream("Fork", context, start, GenerateWriter().write)

    async def _abort(self, data: bytes, context: Context) -> Message:
        """Not admitted like other calls: it makes room, and finds what runs while others drain."""
        num_ended = 0
        async with self._known("Abort", context) as known:
            asked = read_abort(data)
            num_ended = self._ready().abort(
                asked.request_id,
                asked.path,
                asked.sample_index,
                namespace=known.came.namespace,
            )
        return pb.AbortResponse(ended_samples=num_ended)

    async def _tokenize(self, data: bytes, context: Context) -> Message | None:
        def answer(service: TextService) -> Message:
            asked = read_tokenize(data)
            token_ids = service.tokenize(asked.prompt, special_tokens=asked.special_tokens)
            return pb.TokenizeResponse(token_ids=token_ids)

        return await self._answer("Tokenize", context, answer)

    async def _detokenize(self, data: bytes, context: Context) -> Message | None:
        def answer(service: TextService) -> Message:
            asked = read_detokenize(data)
            text = service.detokenize(asked.token_ids, special_tokens=asked.special_tokens)
            return pb.DetokenizeResponse(text=text)

        return await self._answer("Detokenize", context, answer)

    async def _count_tokens(self, data: bytes, context: Context) -> Message | None:
        def answer(service: TextService) -> Message:
            return write_counts(service.count_tokens(read_count_tokens(data)))

        return await self._answer("CountTokens", context, answer)

    async def _stream(self, method: str, context: Context, start: _Start, write: _Write) -> None:
        async with self._known(method, context) as known:
            call = known.call
            with call.enter():
                stream = await self._tokenise(partial(start, known, self._ready()))
                told = measured(stream, self._metrics, also=call.see, tenant=call.tenant)
                async with aclosing(told) as events:
                    await self._send(events, context, write)

    async def _send(self, events: EventStream, context: Context, write: _Write) -> None:
        is_late = False
        # A refused call ends here, before any header is sent: its client may try again.
        first = await anext(events, None)
        await _send_headers(context)
        most = self._config.load.max_buffered_bytes
        async with batched(events, most, first, self._hold_seconds) as batches:
            async for batch in batches:
                for prompt_events in batch:
                    await context.write(write(prompt_events))
                    is_late = is_late or _ends_late(prompt_events)
        if is_late:
            raise DeadlinePassed("the deadline passed before all samples had ended")

    def _hold_seconds(self) -> float:
        """Between two messages of a stream; alone it hardly waits."""
        rate = self._config.max_messages_per_second
        return min(self._doors.calls.num_running / rate, _LONGEST_HOLD_SECONDS)

    async def _answer(self, method: str, context: Context, answer: _Answer) -> Message | None:
        response: Message | None = None
        async with self._known(method, context) as known:
            with known.call.enter():
                response = await self._tokenise(partial(answer, self._ready()))
        return response

    async def _tokenise(self, work: Callable[[], ResultT]) -> ResultT:
        """Do it in the tokenising thread."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenising, work)

    @asynccontextmanager
    async def _known(self, method: str, context: Context) -> AsyncIterator[_Known]:
        """While a call runs whose caller may generate; what it raises ends it, and goes no further.

        The body may not come to its end, and what follows it is done all the same.
        """
        async with self._endings.of(SERVICE_NAME, method, context) as record:
            record.identity = self._doors.doorkeeper.identify(context)
            call = Call(record, self._doors)
            call.require(Permission.GENERATE)
            yield _Known(call, _options(context, call.identity))

    def _log_prompt(self, call: Call, prompt: Prompt | PromptTree) -> None:
        if self._config.log_prompts:
            call.record.prompt = text_of(prompt)

    def _ready(self) -> TextService:
        if self.text_service is None:
            raise EngineStopped(f"the server is {self._doors.calls.phase.value}")
        return self.text_service


def _ends_late(events: PromptEvents) -> bool:
    return any(delta.finish_reason is FinishReason.DEADLINE for delta in events.deltas)


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
