"""The HTTP port: probes, metrics, and whatever else is served there."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from treeserve.metrics import Metrics
from treeserve.server.calls import Calls, Phase
from treeserve.server.page.event_stream import ABORT

CheckMetrics = Callable[[list[str]], Response | None]
"""From the request's authorization headers to the refusal, if they do not do."""


def make_http_app(
    calls: Calls,
    metrics: Metrics,
    is_alive: Callable[[], bool],
    refuse_metrics: CheckMetrics,
    more_routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """`/metrics`, `/healthz` (is the process of any use?), `/readyz` (requests?), and more."""

    async def show_metrics(request: Request) -> Response:
        refusal = refuse_metrics(request.headers.getlist("authorization"))
        return refusal or Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def healthz(request: Request) -> Response:
        if is_alive():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the engine has failed\n", status_code=503)

    async def readyz(request: Request) -> Response:
        if calls.phase is Phase.READY and is_alive():
            return PlainTextResponse("ready\n")
        phase = calls.phase.value if is_alive() else "failed"
        return PlainTextResponse(f"{phase}\n", status_code=503)

    routes = {"/metrics": show_metrics, "/healthz": healthz, "/readyz": readyz}
    probes = [Route(path, endpoint) for path, endpoint in routes.items()]
    return Starlette(routes=[*probes, *more_routes])


class _AbortableProtocol(H11Protocol):
    """Tells a request how to end its connection at once, though its client does not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_abort(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, ABORT: transport.abort}, receive, send)

        self.app = with_abort


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signals alone.

    Args:
        app: What it serves.
        tls: None: plain text.
    """

    def __init__(self, app: Starlette, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            app,
            http=_AbortableProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            # Longer than clients keep an idle connection: a request must not meet its closing.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            ssl_context_factory=None if tls is None else lambda config, default: tls,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
