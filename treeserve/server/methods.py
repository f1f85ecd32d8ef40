"""A service's methods, from request bytes to messages: who calls, may it, and how errors end it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.errors import EngineStopped
from treeserve.server.calls import Calls, Phase
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.identity import Permission

Context: TypeAlias = grpc.aio.ServicerContext[bytes, Message]
Answer: TypeAlias = Callable[[bytes, Call], Awaitable[Message]]
AnswerStream: TypeAlias = Callable[[bytes, Call], AsyncGenerator[Message, None]]
Entry: TypeAlias = Callable[[Call], AbstractContextManager[None]]


class Methods:
    """Built once, method by method; a call's failure ends that call alone.

    Args:
        service_name: In full.
        doors: Decide whether a call may run.
        endings: Tell of every call.
    """

    def __init__(self, service_name: str, doors: Doors, endings: Endings) -> None:
        self._service_name = service_name
        self._doors = doors
        self._endings = endings
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def work(self, name: str, permission: Permission, answer: Answer) -> None:
        """A method that counts as generation calls do: bounded, and waited for by a drain."""
        self._add_unary(name, permission, answer, Call.enter)

    def look(self, name: str, permission: Permission, answer: Answer) -> None:
        """A quick method, answered whatever else runs, as long as the server takes calls."""
        self._add_unary(name, permission, answer, self._while_ready)

    def always(self, name: str, permission: Permission, answer: Answer) -> None:
        """A method that is answered in every phase of the server."""
        self._add_unary(name, permission, answer, _at_once)

    def watch(self, name: str, permission: Permission, answer: AnswerStream) -> None:
        """A stream that ends only with its caller or the server; no drain waits for it."""

        async def handle(data: bytes, context: Context) -> None:
            async def run(call: Call) -> None:
                async with aclosing(answer(data, call)) as messages:
                    async for message in messages:
                        await context.write(message)

            await self._guard(name, context, permission, self._while_ready, run)

        self._handlers[name] = grpc.unary_stream_rpc_method_handler(
            handle, request_deserializer=None, response_serializer=_serialize
        )

    def handler(self) -> "grpc.GenericRpcHandler[bytes, Message]":
        """To be added to a grpc.aio server; requests stay bytes until they are checked."""
        return grpc.method_handlers_generic_handler(self._service_name, self._handlers)

    def _add_unary(self, name: str, permission: Permission, answer: Answer, entry: Entry) -> None:
        async def handle(data: bytes, context: Context) -> Message:
            message: Message = await self._guard(
                name, context, permission, entry, lambda call: answer(data, call)
            )
            return message

        self._handlers[name] = grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=None, response_serializer=_serialize
        )

    async def _guard(
        self,
        name: str,
        context: Context,
        permission: Permission,
        entry: Entry,
        run: Callable[[Call], Awaitable[Any]],
    ) -> Any:
        doorkeeper = self._doors.doorkeeper
        async with self._endings.of(self._service_name, name, context) as record:
            record.identity = doorkeeper.identify(context)
            doorkeeper.require(record.identity, permission)
            call = Call(record, self._doors)
            with entry(call):
                return await run(call)

    @contextmanager
    def _while_ready(self, call: Call) -> Iterator[None]:
        require_ready(self._doors.calls)
        yield


def _at_once(call: Call) -> AbstractContextManager[None]:
    return nullcontext()


def require_ready(calls: Calls) -> None:
    """Raises EngineStopped unless the server takes calls."""
    if calls.phase is not Phase.READY:
        raise EngineStopped(f"the server is {calls.phase.value}")


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
