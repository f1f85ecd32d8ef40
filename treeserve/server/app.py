"""The server as a whole: both doors, from binding to the end of a drain."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from treeserve.metrics import Metrics
from treeserve.server.activity import Activity
from treeserve.server.backstage import Backstage
from treeserve.server.calls import Calls, Phase
from treeserve.server.config import Address, BindError, LoadConfig, ServerConfig
from treeserve.server.contract import ServedModel, TextService
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.doors import Doors
from treeserve.server.endings import Endings
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.generating import Generating
from treeserve.server.http import HttpServer, make_http_app
from treeserve.server.metrics_door import MetricsDoor
from treeserve.server.openai.door import HttpDoor
from treeserve.server.openai.routes import openai_routes
from treeserve.server.page.door import PageDoor
from treeserve.server.page.history import History
from treeserve.server.page.hub import Hub
from treeserve.server.page.routes import Page
from treeserve.server.quotas import Quotas
from treeserve.server.service import SERVICE_NAME, GenerationService
from treeserve.server.side_services import SERVICE_NAMES, SideServices
from treeserve.server.step_totals import StepTotals
from treeserve.server.tls import Tls
from treeserve.server.tracing import Tracing
from treeserve.server.waiting import WaitingRoom

logger = logging.getLogger(__name__)

_GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),
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
        watch: To be told of every step of the engine.
        tracing: Told of every call at its end; None: there is none.

    Raises:
        ConfigError: A file of keys or certificates is missing or wrong.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        watch: EngineWatch | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._watch = watch or EngineWatch()
        self._tls = None if config.tls is None else Tls(config.tls)
        self.doorkeeper = Doorkeeper(config.access.api_keys, by_certificate=config.by_certificate)
        load = config.load
        waiting = WaitingRoom(load.max_waiting_requests, load.max_waiting_tokens, self._watch)
        self._calls = Calls(load.max_calls, waiting.retry_seconds)
        activity = Activity()
        doors = Doors(self.doorkeeper, self._calls, Quotas(), waiting, self._watch, activity)
        self._endings = endings = Endings(
            self._calls, metrics, tracing, request_log=config.request_log
        )
        self._generating = Generating(doors, metrics, config)
        self._service = GenerationService(doors, endings, self._generating, config)
        self.side = SideServices(doors, endings, config, self.drain)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        metrics.ask_server(
            is_ready=lambda: self._calls.phase is Phase.READY and self.is_alive(),
            stalled_seconds=self._watch.stalled_seconds,
            num_calls=lambda: self._calls.num_running,
        )
        self._engine_is_alive: Callable[[], bool] = lambda: True
        self._grpc = grpc.aio.server(options=self._options())
        self._add_services()
        refuse = MetricsDoor(config, self.doorkeeper).refuse
        hub = Hub(History(self._watch.totals, activity), self._state)
        self._page = Page(PageDoor(config, self.doorkeeper), hub, self._calls)
        self._door = HttpDoor(doors, endings, self._generating, config)
        routes = openai_routes(self._door, is_described=config.access.reflection)
        routes += self._page.routes()
        app = make_http_app(self._calls, metrics, self.is_alive, refuse, routes)
        self._http = HttpServer(app, None if self._tls is None else self._tls.http_context())
        self._tasks: list[asyncio.Task[None]] = []
        self.grpc_address = config.grpc_address
        self.http_address = config.http_address

    @property
    def num_calls(self) -> int:
        """Generation calls in flight."""
        return self._calls.num_running

    @property
    def num_page_watchers(self) -> int:
        """Browsers that watch the page."""
        return self._page.hub.num_watchers

    @property
    def step_totals(self) -> StepTotals:
        """What the engine's steps add up to."""
        return self._watch.totals

    @property
    def page_seconds(self) -> float:
        """That the page took of the event loop's thread, drawing and sending."""
        return self._page.hub.spent_seconds

    def is_alive(self) -> bool:
        """Whether the engine lives, and its steps go on while it has something to do."""
        stalled_seconds = self._watch.stalled_seconds()
        return self._engine_is_alive() and stalled_seconds < self._config.stall_seconds

    def reload(self, *, only_if_changed: bool = False) -> None:
        """Read keys and certificates again; what is wrong is logged, and the old ones stay.

        Calls whose key is no longer valid end with UNAUTHENTICATED.
        """
        self.doorkeeper.reload(only_if_changed=only_if_changed)
        num_ended = self._endings.end_unless(self.doorkeeper.still_knows)
        if num_ended:
            logger.warning("ended %d calls whose API keys are no longer valid", num_ended)
        if self._tls is not None:
            self._tls.reload(only_if_changed=only_if_changed)

    async def start(self) -> None:
        """Listen on both addresses, which then carry the ports that were chosen.

        Raises:
            BindError: An address is in use or cannot be bound.
        """
        if self._config.shows_keys_in_the_clear:
            logger.warning("API keys cross the network unencrypted: give --tls-cert and --tls-key")
        http_socket = _bind("http_address", self._config.http_address)
        try:
            self.grpc_address = self._bind_grpc(
                "grpc_address", self._grpc, self._config.grpc_address
            )
            await self.side.start(self._bind_grpc, self._options())
        except BindError:
            http_socket.close()
            raise
        self.http_address = Address(self._config.http_address.host, http_socket.getsockname()[1])
        await self._set_health(_NOT_SERVING)
        await self._grpc.start()
        self._tasks = [
            asyncio.create_task(self._http.serve([http_socket])),
            asyncio.create_task(self._reload_for_ever()),
        ]
        self._page.hub.start()

    async def set_ready(
        self,
        text_service: TextService,
        is_alive: Callable[[], bool] = lambda: True,
        backstage: Backstage | None = None,
        model: ServedModel | None = None,
    ) -> None:
        """Take calls from now on.

        Args:
            text_service: Generates.
            is_alive: Whether the engine still works.
            backstage: What the other services answer from; None: they have nothing.
            model: What callers are told of it; None: nothing true.
        """
        self._generating.set_ready(text_service, model)
        self._door.keeper = None if backstage is None else backstage.keeper
        self._generating.schemas = None if backstage is None else backstage.schemas
        self.side.set_ready(backstage)
        self._page.set_ready(text_service, backstage)
        self._engine_is_alive = is_alive
        self._calls.phase = Phase.READY
        await self._set_health(_SERVING)

    async def drain(self) -> bool:
        """Refuse new calls and let running ones end; whether all did within the grace."""
        self._calls.phase = Phase.DRAINING
        await self._set_health(_NOT_SERVING)
        return await self._calls.wait_until_empty(self._config.drain_grace_seconds)

    async def stop(self) -> None:
        """End what still runs and close both doors."""
        await self.side.stop()
        await self._page.hub.close()
        await self._calls.cut_short()
        await self._grpc.stop(None)
        self._generating.close()
        if self._tasks:
            self._http.should_exit = True
            http, reloading = self._tasks
            reloading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reloading
            await http

    async def give_up(self) -> None:
        """The engine cannot go on: say so, take no calls, and end those that run."""
        await self._set_health(_NOT_SERVING)
        await self._calls.cut_short()

    def _add_services(self) -> None:
        self._grpc.add_generic_rpc_handlers((self._service.handler(), *self.side.handlers()))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if self._config.access.reflection:
            names = (SERVICE_NAME, *SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)

    async def _reload_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._config.access.reload_seconds)
            self.reload(only_if_changed=True)

    def _state(self) -> dict[str, Any]:
        """What the page tells of the server itself."""
        return {
            "phase": self._calls.phase.value,
            "alive": self.is_alive(),
            "stalled_seconds": round(self._watch.stalled_seconds(), 1),
            "calls": self.num_calls,
            "watchers": self.num_page_watchers,
        }

    def _options(self) -> list[tuple[str, Any]]:
        return [*_GRPC_OPTIONS, *_load_options(self._config.load)]

    def _bind_grpc(self, name: str, server: grpc.aio.Server, address: Address) -> Address:
        """gRPC gives no reason for a port that it cannot bind, so the port is tried first."""
        _bind(name, address).close()
        try:
            if self._tls is None:
                port = server.add_insecure_port(str(address))
            else:
                port = server.add_secure_port(str(address), self._tls.grpc_credentials())
        except RuntimeError as error:
            raise BindError(f"{name}: cannot listen on {address}: {error}") from None
        return Address(address.host, port)

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        await self._health.set("", status)
        await self._health.set(SERVICE_NAME, status)


def _bind(name: str, address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=256)
    except OSError as error:
        raise BindError(f"{name}: cannot listen on {address}: {error.strerror}") from None


def _load_options(load: LoadConfig) -> list[tuple[str, Any]]:
    options = [
        ("grpc.max_receive_message_length", load.max_message_bytes),
        ("grpc.max_concurrent_streams", load.max_streams_per_connection),
    ]
    if load.max_connection_age_seconds is not None:
        age = min(load.max_connection_age_seconds * 1000, (1 << 31) - 1)
        options.append(("grpc.max_connection_age_ms", age))
    return options
