"""`treeserve serve`: loads a model and serves it until a signal comes."""

import argparse
import asyncio
import logging
import os
import signal
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from treeserve.commands.options import (
    add_engine_options,
    given_engine_options,
    package_version,
)
from treeserve.server.config import (
    DEFAULT_DRAIN_GRACE_SECONDS,
    DEFAULT_GRPC_ADDRESS,
    DEFAULT_HTTP_ADDRESS,
    DEFAULT_MAX_CALLS,
    ServerConfig,
    parse_address,
)

if TYPE_CHECKING:
    from treeserve.building import BuiltEngine
    from treeserve.metrics import Metrics
    from treeserve.server.app import Server

logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Serve a model over gRPC (treeserve.v1.GenerationService, grpc.health.v1, reflection), with /metrics,
/healthz and /readyz over HTTP beside it.

  treeserve serve                                     the embedded model, on this machine only
  treeserve serve --model ./my-llama --dtype bfloat16
  treeserve serve --grpc-address 127.0.0.1:0          any free port; the first line says which

SIGTERM or SIGINT drains: new calls are refused, running streams may end. A second stops at once.
Neither door asks who calls: let only trusted machines reach the addresses.
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "serve", help="serve a model over gRPC", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--grpc-address", default=DEFAULT_GRPC_ADDRESS, metavar="HOST:PORT",
        help="default: %(default)s; port 0 is any free one",
    )  # fmt: skip
    group.add_argument(
        "--http-address", default=DEFAULT_HTTP_ADDRESS, metavar="HOST:PORT",
        help="of /metrics, /healthz and /readyz; default: %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--drain-grace", type=float, default=DEFAULT_DRAIN_GRACE_SECONDS, metavar="SECONDS",
        help="how long running streams may go on after a signal; default: %(default)g",
    )  # fmt: skip
    group.add_argument(
        "--max-calls", type=int, default=DEFAULT_MAX_CALLS, metavar="N",
        help="generation calls at once, at most; default: %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--log-level", default="warning", choices=("debug", "info", "warning", "error"),
        help="of the log on stderr; default: %(default)s",
    )  # fmt: skip
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    config = ServerConfig(
        grpc_address=parse_address("grpc_address", args.grpc_address),
        http_address=parse_address("http_address", args.http_address),
        drain_grace_seconds=args.drain_grace,
        max_calls=args.max_calls,
    )
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    return asyncio.run(_serve(config, given_engine_options(args)))


async def _serve(config: ServerConfig, engine_options: dict[str, Any]) -> int:
    from treeserve.metrics import Metrics
    from treeserve.server.app import Server

    metrics = Metrics()
    server = Server(config, metrics)
    await server.start()
    signals = _Signals()
    try:
        built = await _load_unless(signals.first, engine_options)
        await _serve_engine(server, metrics, built, signals)
    finally:
        await server.stop()
    return 0


async def _serve_engine(
    server: "Server", metrics: "Metrics", built: "BuiltEngine", signals: "_Signals"
) -> None:
    from treeserve.generation import TextService
    from treeserve.loop import EngineLoop

    metrics.set_info(**_info(built))
    loop = EngineLoop(built.engine, metrics.observe_step)
    loop.start()
    try:
        await server.set_ready(TextService(loop, built.prompter), lambda: loop.healthy)
        print(_startup_line(server, built), flush=True)
        await signals.first.wait()
        logger.info("draining %d calls", server.num_calls)
        await _first_of(server.drain(), signals.second.wait())
        await server.stop()
    finally:
        loop.stop()


async def _load_unless(interrupted: asyncio.Event, engine_options: dict[str, Any]) -> "BuiltEngine":
    """The engine, loaded in a thread, so that probes are answered meanwhile."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[BuiltEngine] = loop.create_future()

    def load() -> None:
        from treeserve.building import build_engine
        from treeserve.config import EngineOptions

        try:
            built = build_engine(EngineOptions(**engine_options))
        except Exception as error:
            loop.call_soon_threadsafe(loaded.set_exception, error)
        else:
            loop.call_soon_threadsafe(loaded.set_result, built)

    threading.Thread(target=load, name="treeserve-load", daemon=True).start()
    await _first_of(_settled(loaded), interrupted.wait())
    if not loaded.done():
        # A thread inside a model's loading can neither be ended nor waited for in good time.
        os._exit(0)
    return loaded.result()


async def _settled(future: "asyncio.Future[Any]") -> None:
    await asyncio.wait([future])


async def _first_of(*awaitables: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of them ends, and cancel the others; raises what it raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


class _Signals:
    """SIGTERM and SIGINT of this process, first and second."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._receive)

    def _receive(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _startup_line(server: "Server", built: "BuiltEngine") -> str:
    model = built.model
    return (
        f"treeserve {package_version()} is ready: grpc {server.grpc_address}, "
        f"http {server.http_address}, model {model.name} ({_dtype_name(built)}, {model.device}, "
        f"{built.backend} attention, {built.num_pages} pages)"
    )


def _dtype_name(built: "BuiltEngine") -> str:
    return str(built.model.dtype).removeprefix("torch.")


def _info(built: "BuiltEngine") -> dict[str, str]:
    return {
        "version": package_version(),
        "model": built.model.name,
        "dtype": _dtype_name(built),
        "device": str(built.model.device),
        "backend": built.backend,
    }
