"""The two methods of GenerationService, from request bytes to streamed messages."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.errors import EngineStopped
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents, batched
from treeserve.server.call_log import REQUEST_ID, CallRecord, open_record, text_of, write_record
from treeserve.server.calls import Calls, Phase
from treeserve.server.config import ServerConfig
from treeserve.server.contract import EventStream, TextService
from treeserve.server.convert import (
    read_generate,
    read_generate_tree,
    write_generate,
    write_generate_tree,
)
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.identity import Permission
from treeserve.server.measure import measured
from treeserve.server.quotas import Quotas
from treeserve.server.status import code_of, status_of
from treeserve.server.tracing import Tracing
from treeserve.server.waiting import Ticket, WaitingRoom
from treeserve.types import Caller, Delta, Finished, RequestSize

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[bytes, Message]
_Start: TypeAlias = Callable[["_Call", TextService, bytes], EventStream]
_Write: TypeAlias = Callable[[PromptEvents], Message]


class Doors(NamedTuple):
    """What decides whether a call may come in."""

    doorkeeper: Doorkeeper
    calls: Calls
    quotas: Quotas
    waiting: WaitingRoom
    watch: EngineWatch


class GenerationService:
    """Answers calls from a text service that arrives when the model is loaded.

    A call's failure ends that call alone. Texts are tokenised in one thread of their own, so that
    a long prompt does not hold up the streams.

    Args:
        doors: Decide whether a call may run.
        metrics: Told of every call.
        config: How much a slow reader may leave unread, and what is logged.
        tracing: None: there is none.
    """

    def __init__(
        self,
        doors: Doors,
        metrics: Metrics,
        config: ServerConfig,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.text_service: TextService | None = None
        self._doors = doors
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
        def start(call: _Call, service: TextService, data: bytes) -> EventStream:
            prompt, params = read_generate(data)
            if self._config.log_prompts:
                call.record.prompt = text_of(prompt)
            return service.generate(prompt, params, caller=call.caller, admit=call.admit)

        await self._answer("Generate", data, context, start, write_generate)

    async def _generate_tree(self, data: bytes, context: Context) -> None:
        def start(call: _Call, service: TextService, data: bytes) -> EventStream:
            tree = read_generate_tree(data)
            if self._config.log_prompts:
                call.record.prompt = text_of(tree)
            return service.generate_tree(tree, caller=call.caller, admit=call.admit)

        await self._answer("GenerateTree", data, context, start, write_generate_tree)

    async def _answer(
        self, method: str, data: bytes, context: Context, start: _Start, write: _Write
    ) -> None:
        code = grpc.StatusCode.OK
        record = open_record(method, context.invocation_metadata())
        context.set_trailing_metadata(((REQUEST_ID, record.request_id),))
        try:
            await self._stream(data, context, record, start, write)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            if self._doors.calls.phase is not Phase.STOPPED:
                raise
            code = grpc.StatusCode.UNAVAILABLE
            error = EngineStopped("the server shut down before the call had ended")
            await _abort(context, error, record)
        except Exception as error:
            code = grpc.StatusCode.CANCELLED if context.done() else code_of(error)
            if not context.done():
                await _abort(context, error, record)
        finally:
            self._tell(record, code.name)

    def _tell(self, record: CallRecord, code: str) -> None:
        self._metrics.observe_call(record.method, code)
        if self._tracing is not None:
            record.trace_id = self._tracing.trace(record, code)
        if self._config.request_log:
            write_record(record, code)

    async def _stream(
        self, data: bytes, context: Context, record: CallRecord, start: _Start, write: _Write
    ) -> None:
        doors = self._doors
        record.identity = doors.doorkeeper.identify(context)
        doors.doorkeeper.require(record.identity, Permission.GENERATE)
        with doors.calls.admit(), doors.quotas.request(record.identity):
            assert self.text_service is not None, "ready without a text service"
            call = _Call(record, doors)
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


class _Call:
    """One call that has come in: whose it is, and what it takes up.

    Args:
        record: With its identity.
        doors: Count what it takes up.
    """

    def __init__(self, record: CallRecord, doors: Doors) -> None:
        self.record = record
        self.caller = Caller(namespace=record.identity.tenant, tenant=record.identity.tenant)
        self._doors = doors
        self._ticket: Ticket | None = None

    @contextmanager
    def admit(self, size: RequestSize) -> Iterator[None]:
        """Let its prompts in, once it is known how large they are."""
        doors = self._doors
        with (
            doors.quotas.tokens(self.record.identity, size.num_tokens),
            doors.waiting.wait(size) as self._ticket,
            doors.watch.work(size.first_request_id) as self.record.queue_time,
        ):
            yield

    def see(self, event: Delta | Finished) -> None:
        """Take in an event of its stream: a prompt that draws waits no more."""
        self.record.see(event)
        if self._ticket:
            self._ticket.leave_one(event.path)


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


async def _abort(context: Context, error: Exception, record: CallRecord) -> None:
    status = status_of(error)
    ids = ((REQUEST_ID, record.request_id),)
    await context.abort(status.code, status.details, (*status.trailing_metadata, *ids))


def _streaming(
    method: Callable[[bytes, Context], Awaitable[None]],
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_stream_rpc_method_handler(
        method,
        request_deserializer=None,
        response_serializer=lambda message: message.SerializeToString(),
    )
