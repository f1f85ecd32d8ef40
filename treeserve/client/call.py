"""One call of a method: what is sent, how answers are read, and when it may be made again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2_grpc

from treeserve.pb import (
    admin_pb2_grpc,
    generation_pb2_grpc,
    module_pb2_grpc,
    prefix_pb2_grpc,
    tree_pb2_grpc,
)

ReadT = TypeVar("ReadT", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[ReadT]):
    """Complete when built; made as often as its retries allow.

    Attributes:
        service: Name of the stub in `Stubs`.
        method: Of the service.
        request: The message.
        read: From a message of the answer to what the caller gets.
        repeats_lost: Whether it may be made again where nobody knows what became of it.
        repeats_exactly: Whether it would tell the same again, from the beginning.
    """

    service: str
    method: str
    request: Message
    read: Callable[[Any], ReadT]
    repeats_lost: bool = True
    repeats_exactly: bool = False


class Stubs:
    """The generated stubs of every service, over one channel."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self._stubs: dict[str, Any] = {
            "generation": generation_pb2_grpc.GenerationServiceStub(channel),  # type: ignore[no-untyped-call]
            "prefix": prefix_pb2_grpc.PrefixServiceStub(channel),  # type: ignore[no-untyped-call]
            "module": module_pb2_grpc.ModuleServiceStub(channel),  # type: ignore[no-untyped-call]
            "tree": tree_pb2_grpc.TreeServiceStub(channel),  # type: ignore[no-untyped-call]
            "admin": admin_pb2_grpc.AdminServiceStub(channel),  # type: ignore[no-untyped-call]
            "health": health_pb2_grpc.HealthStub(channel),
        }

    def method(self, call: Call[object]) -> Any:
        """What makes a call: takes the request, a timeout and metadata."""
        return getattr(self._stubs[call.service], call.method)
