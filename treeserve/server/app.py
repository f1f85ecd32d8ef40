"""The server as a whole: both doors, from binding to the end of a drain."""

import asyncio
import logging
import socket
from collections.abc import Callable

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from treeserve.metrics import Metrics
from treeserve.server.calls import Calls, Phase
from treeserve.server.config import MAX_REQUEST_BYTES, Address, BindError, ServerConfig
from treeserve.server.contract import TextService
from treeserve.server.http import HttpServer, make_http_app
from treeserve.server.service import SERVICE_NAME, GenerationService

logger = logging.getLogger(__name__)

_GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """Listens from start() on, refuses calls until set_ready(), and ends with drain() or stop().

    Belongs to the event loop in which it is built.

    Args:
        config: Where to listen and how much to take.
        metrics: Shown at /metrics, and told of every call.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._config = config
        self._calls = Calls(config.max_calls)
        self._service = GenerationService(self._calls, metrics)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        self._is_alive: Callable[[], bool] = lambda: True
        self._grpc = grpc.aio.server(options=_GRPC_OPTIONS)
        self._grpc.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        self._http = HttpServer(make_http_app(self._calls, metrics, lambda: self._is_alive()))
        self._http_task: asyncio.Task[None] | None = None
        self.grpc_address = config.grpc_address
        self.http_address = config.http_address

    @property
    def num_calls(self) -> int:
        """Generation calls in flight."""
        return self._calls.num_running

    async def start(self) -> None:
        """Listen on both addresses, which then carry the ports that were chosen.

        Raises:
            BindError: An address is in use or cannot be bound.
        """
        http_socket = _bind("http_address", self._config.http_address)
        try:
            self.grpc_address = _bind_grpc(self._grpc, self._config.grpc_address)
        except BindError:
            http_socket.close()
            raise
        self.http_address = Address(self._config.http_address.host, http_socket.getsockname()[1])
        await self._set_health(_NOT_SERVING)
        await self._grpc.start()
        self._http_task = asyncio.create_task(self._http.serve([http_socket]))

    async def set_ready(
        self, text_service: TextService, is_alive: Callable[[], bool] = lambda: True
    ) -> None:
        """Take calls from now on; `is_alive` says whether the engine still works."""
        self._service.text_service = text_service
        self._is_alive = is_alive
        self._calls.phase = Phase.READY
        await self._set_health(_SERVING)

    async def drain(self) -> bool:
        """Refuse new calls and let running ones end; whether all did within the grace."""
        self._calls.phase = Phase.DRAINING
        await self._set_health(_NOT_SERVING)
        return await self._calls.wait_until_empty(self._config.drain_grace_seconds)

    async def stop(self) -> None:
        """End what still runs and close both doors."""
        await self._calls.cut_short()
        await self._grpc.stop(None)
        self._service.close()
        if self._http_task is not None:
            self._http.should_exit = True
            await self._http_task

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        await self._health.set("", status)
        await self._health.set(SERVICE_NAME, status)


def _bind(name: str, address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=256)
    except OSError as error:
        raise BindError(f"{name}: cannot listen on {address}: {error.strerror}") from None


def _bind_grpc(server: grpc.aio.Server, address: Address) -> Address:
    """gRPC gives no reason for a port that it cannot bind, so the port is tried first."""
    _bind("grpc_address", address).close()
    try:
        return Address(address.host, server.add_insecure_port(str(address)))
    except RuntimeError as error:
        raise BindError(f"grpc_address: cannot listen on {address}: {error}") from None
