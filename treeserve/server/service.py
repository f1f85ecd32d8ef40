"""The two methods of GenerationService, from request bytes to streamed messages."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents, batched
from treeserve.server.call_log import CallRecord, text_of
from treeserve.server.config import ServerConfig
from treeserve.server.contract import EventStream, TextService
from treeserve.server.convert import (
    read_generate,
    read_generate_tree,
    write_generate,
    write_generate_tree,
)
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.identity import Permission
from treeserve.server.measure import measured

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[bytes, Message]
_Start: TypeAlias = Callable[[Call, TextService, bytes], EventStream]
_Write: TypeAlias = Callable[[PromptEvents], Message]


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
        methods = {"Generate": self._generate, "GenerateTree": self._generate_tree}
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME, {name: _streaming(method) for name, method in methods.items()}
        )

    def close(self) -> None:
        self._tokenising.shutdown(wait=False, cancel_futures=True)

    async def _generate(self, data: bytes, context: Context) -> None:
        def start(call: Call, service: TextService, data: bytes) -> EventStream:
            prompt, params = read_generate(data)
            if self._config.log_prompts:
                call.record.prompt = text_of(prompt)
            return service.generate(prompt, params, caller=call.caller, admit=call.admit)

        await self._answer("Generate", data, context, start, write_generate)

    async def _generate_tree(self, data: bytes, context: Context) -> None:
        def start(call: Call, service: TextService, data: bytes) -> EventStream:
            tree = read_generate_tree(data)
            if self._config.log_prompts:
                call.record.prompt = text_of(tree)
            return service.generate_tree(tree, caller=call.caller, admit=call.admit)

        await self._answer("GenerateTree", data, context, start, write_generate_tree)

    async def _answer(
        self, method: str, data: bytes, context: Context, start: _Start, write: _Write
    ) -> None:
        async with self._endings.of(SERVICE_NAME, method, context) as record:
            await self._stream(data, context, record, start, write)

    async def _stream(
        self, data: bytes, context: Context, record: CallRecord, start: _Start, write: _Write
    ) -> None:
        doors = self._doors
        record.identity = doors.doorkeeper.identify(context)
        doors.doorkeeper.require(record.identity, Permission.GENERATE)
        call = Call(record, doors)
        with call.enter():
            assert self.text_service is not None, "ready without a text service"
            begin = partial(start, call, self.text_service, data)
            stream = await asyncio.get_running_loop().run_in_executor(self._tokenising, begin)
            async with aclosing(measured(stream, self._metrics, also=call.see)) as events:
                # A refused call ends here, before any header is sent: its client may try again.
                first = await anext(events, None)
                await _send_headers(context)
                most = self._config.load.max_buffered_bytes
                async with batched(events, most, first) as batches:
                    async for batch in batches:
                        for prompt_events in batch:
                            await context.write(write(prompt_events))


async def _send_headers(context: Context) -> None:
    """By themselves, and to the end.

    gRPC sends them with the first message otherwise. Were that one cut off, as a slow reader's is,
    gRPC would send them once more with the status, which ends in an error that the caller never
    hears of.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(()))
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
