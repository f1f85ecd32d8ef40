"""The two methods of GenerationService, from request bytes to streamed messages."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.errors import EngineStopped
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents, batched
from treeserve.server.calls import Calls, Phase
from treeserve.server.contract import EventStream, TextService
from treeserve.server.convert import (
    read_generate,
    read_generate_tree,
    write_generate,
    write_generate_tree,
)
from treeserve.server.measure import measured
from treeserve.server.status import code_of, status_of

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[bytes, Message]
_Start: TypeAlias = Callable[[TextService, bytes], EventStream]
_Write: TypeAlias = Callable[[PromptEvents], Message]


class GenerationService:
    """Answers calls from a text service that arrives when the model is loaded.

    A call's failure ends that call alone. Texts are tokenised in one thread of their own, so that
    a long prompt does not hold up the streams.

    Args:
        calls: Decides whether a call may run.
        metrics: Told of every call.
    """

    def __init__(self, calls: Calls, metrics: Metrics) -> None:
        self.text_service: TextService | None = None
        self._calls = calls
        self._metrics = metrics
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
        def start(service: TextService, data: bytes) -> EventStream:
            prompt, params = read_generate(data)
            return service.generate(prompt, params)

        await self._answer("Generate", data, context, start, write_generate)

    async def _generate_tree(self, data: bytes, context: Context) -> None:
        def start(service: TextService, data: bytes) -> EventStream:
            return service.generate_tree(read_generate_tree(data))

        await self._answer("GenerateTree", data, context, start, write_generate_tree)

    async def _answer(
        self, method: str, data: bytes, context: Context, start: _Start, write: _Write
    ) -> None:
        code = grpc.StatusCode.OK
        try:
            await self._stream(data, context, start, write)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            if self._calls.phase is not Phase.STOPPED:
                raise
            code = grpc.StatusCode.UNAVAILABLE
            error = EngineStopped("the server shut down before the call had ended")
            await _abort(context, error)
        except Exception as error:
            code = grpc.StatusCode.CANCELLED if context.done() else code_of(error)
            if not context.done():
                await _abort(context, error)
        finally:
            self._metrics.observe_call(method, code.name)

    async def _stream(self, data: bytes, context: Context, start: _Start, write: _Write) -> None:
        with self._calls.admit():
            assert self.text_service is not None, "ready without a text service"
            loop = asyncio.get_running_loop()
            stream = await loop.run_in_executor(self._tokenising, start, self.text_service, data)
            async with aclosing(batched(measured(stream, self._metrics))) as batches:
                async for batch in batches:
                    for events in batch:
                        await context.write(write(events))


async def _abort(context: Context, error: Exception) -> None:
    status = status_of(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


def _streaming(
    method: Callable[[bytes, Context], Awaitable[None]],
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_stream_rpc_method_handler(
        method,
        request_deserializer=None,
        response_serializer=lambda message: message.SerializeToString(),
    )
