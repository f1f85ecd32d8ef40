"""A call's context as the service knows it from gRPC, for a call that came through Ray's proxy."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from ray.serve.grpc_util import RayServegRPCContext

from treeserve.ray.proxy_services import SECONDS_LEFT

_DONE = object()


class CallEnded(Exception):
    """The call ended with a status that its context carries."""


class CallContext:
    """What `grpc.aio.ServicerContext` is to a method, as far as treeserve's methods use it.

    Args:
        context: Carries the status back to the proxy.
    """

    def __init__(self, context: RayServegRPCContext) -> None:
        self._context = context
        self._written: asyncio.Queue[Any] = asyncio.Queue()
        self._is_done = False
        metadata = tuple(context.invocation_metadata())
        self._metadata = tuple(entry for entry in metadata if entry[0] != SECONDS_LEFT)
        self.is_ours = len(self._metadata) < len(metadata)
        """Whether the proxy has the services of `proxy_services`, not those that are generated."""
        self._deadline = _deadline(dict(metadata).get(SECONDS_LEFT, ""))

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        return dict(self._context.auth_context())

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline; None: it has none, or the proxy did not say."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def done(self) -> bool:
        """Whether the caller has gone."""
        return self._is_done

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        self._context.set_trailing_metadata(list(metadata))

    async def send_initial_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """The proxy sends it with the first message."""

    async def write(self, message: Message) -> None:
        self._written.put_nowait(message)

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        self._context.set_code(code)
        self._context.set_details(details)
        self.set_trailing_metadata(trailing_metadata)
        raise CallEnded(f"{code.name}: {details}")

    def leave(self) -> None:
        """The caller has gone."""
        self._is_done = True

    def close(self) -> None:
        """Nothing is written any more."""
        self._written.put_nowait(_DONE)

    async def __aiter__(self) -> Any:
        """Messages as they are written, until `close`."""
        while (message := await self._written.get()) is not _DONE:
            yield message


def _deadline(seconds_left: str | bytes) -> float | None:
    """On this machine's monotonic clock."""
    try:
        return time.monotonic() + float(seconds_left)
    except ValueError:
        return None
