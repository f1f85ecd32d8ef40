"""`treeserve serve`: loads a model and serves it until a signal comes."""

import argparse
import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from treeserve.commands.backstage import (
    BackstageOptions,
    add_backstage_options,
    make_backstage,
    read_backstage_options,
)
from treeserve.commands.kv_event_options import (
    KVEventOptions,
    add_kv_event_options,
    open_kv_events,
    read_kv_event_options,
)
from treeserve.commands.options import (
    add_engine_options,
    given_engine_options,
    package_version,
)
from treeserve.commands.rank_options import add_rank_options, follow_along, read_place
from treeserve.commands.serve_options import add_server_options, request_limits, server_config
from treeserve.errors import ConfigError
from treeserve.server.config import ServerConfig
from treeserve.server.contract import ServedModel
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.log_format import start_logging
from treeserve.types import StepNumbers

if TYPE_CHECKING:
    from treeserve.building import BuiltEngine
    from treeserve.kv_events import KVEventPublisher
    from treeserve.loop import EngineLoop
    from treeserve.metrics import Metrics
    from treeserve.ranks.group import Place
    from treeserve.server.app import Server
    from treeserve.server.backstage import Backstage

logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Serve a model over gRPC (treeserve.v1, health, reflection) and over HTTP: OpenAI's API (/v1/models,
/v1/chat/completions and others, /openapi.json), a page that shows the live tree, /metrics, /healthz
and /readyz.

  treeserve serve                                     the embedded model, on this machine only
  treeserve serve --model ./my-llama --dtype bfloat16
  treeserve serve --grpc-address 127.0.0.1:0          any free port; the first line says which
  treeserve serve --grpc-address [::]:50051 --api-keys keys.jsonl --tls-cert c.pem --tls-key k.pem

SIGTERM or SIGINT drains: new calls are refused, running streams may end. A second stops at once.
SIGHUP reads keys and certificates again, which otherwise happens within seconds of a change.
docs/security.md says how to let other machines call.
"""

_LOOK_SECONDS = 0.1


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "serve", help="serve a model over gRPC and HTTP", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add_server_options(parser)
    add_backstage_options(parser.add_argument_group("services beside generation"))
    add_engine_options(parser)
    add_rank_options(parser.add_argument_group("ranks"))
    add_kv_event_options(parser.add_argument_group("KV events"))


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    config = server_config(args)
    if config.log_prompts and not config.request_log:
        raise ConfigError("log_prompts: is of no use without --request-log")
    engine_options = given_engine_options(args) | {"limits": request_limits(args)}
    backstage_options = read_backstage_options(args)
    start_logging(args.log_level, args.log_format, request_log=config.request_log)
    engine_options["tensor_parallel"] = args.tensor_parallel
    place = read_place(args)
    if place is not None and place.rank > 0:
        return follow_along(place, engine_options)
    beside = _Beside(backstage_options, read_kv_event_options(args), place)
    return asyncio.run(_serve(config, engine_options, beside))


class _Beside(NamedTuple):
    """What is asked for beside the engine and its doors."""

    backstage: BackstageOptions
    kv_events: KVEventOptions | None
    place: "Place | None"


async def _serve(config: ServerConfig, engine_options: dict[str, Any], beside: _Beside) -> int:
    from treeserve.metrics import Metrics
    from treeserve.server.app import Server
    from treeserve.server.tracing import configured_tracing

    metrics, watch = Metrics(), EngineWatch()
    tracing = configured_tracing(os.environ)
    server = Server(config, metrics, watch, tracing)
    await server.start()
    signals = _Signals(server.reload)
    try:
        built = await _load_unless(signals.first, engine_options, beside.place)
        observers = _Observers(metrics, watch, open_kv_events(beside.kv_events, built))
        _describe(metrics, built, engine_options)
        open_backstage = partial(make_backstage, built, engine_options, beside.backstage)
        try:
            return await _serve_engine(server, built, signals, observers, open_backstage)
        finally:
            observers.close()
    finally:
        await server.stop()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


async def _serve_engine(
    server: "Server",
    built: "BuiltEngine",
    signals: "_Signals",
    observers: "_Observers",
    open_backstage: "Callable[[EngineLoop], Backstage]",
) -> int:
    from treeserve.generation import TextService
    from treeserve.loop import EngineLoop

    observe = partial(observers.observe, built.engine.scheduler.is_waiting)
    loop = EngineLoop(built.engine, observe)
    loop.start()
    try:
        text_service = TextService(loop, built.prompter)
        served = ServedModel(built.model.name, built.model.max_positions)
        await server.set_ready(text_service, lambda: loop.healthy, open_backstage(loop), served)
        print(_startup_line(server, built), flush=True)
        await _first_of(signals.first.wait(), _failure_of(loop, built))
        if not _can_go_on(loop, built):
            logger.critical("the engine cannot go on, and the server ends")
            await server.give_up()
            return 1
        logger.info("draining %d calls", server.num_calls)
        await _first_of(server.drain(), signals.second.wait())
        await server.stop()
    finally:
        loop.stop()
        if built.leader is not None:
            await asyncio.to_thread(built.leader.close)
    return 0


def _can_go_on(loop: "EngineLoop", built: "BuiltEngine") -> bool:
    return loop.healthy and (built.leader is None or built.leader.failure is None)


async def _failure_of(loop: "EngineLoop", built: "BuiltEngine") -> None:
    while _can_go_on(loop, built):
        await asyncio.sleep(_LOOK_SECONDS)


class _Observers(NamedTuple):
    """Who is told of every step."""

    metrics: "Metrics"
    watch: EngineWatch
    kv_events: "KVEventPublisher | None"

    def close(self) -> None:
        """The engine's thread has ended."""
        if self.kv_events is not None:
            self.kv_events.close()

    def observe(self, is_waiting: Callable[[str], bool], numbers: StepNumbers) -> None:
        self.metrics.observe_step(numbers)
        self.watch.observe(numbers, is_waiting)
        if self.kv_events is not None:
            self.kv_events.publish()


async def _load_unless(
    interrupted: asyncio.Event, engine_options: dict[str, Any], place: "Place | None"
) -> "BuiltEngine":
    """The engine, loaded in a thread, so that probes are answered meanwhile."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[BuiltEngine] = loop.create_future()

    def load() -> None:
        from treeserve.config import EngineOptions
        from treeserve.model_place import resolve_model

        try:
            options = EngineOptions(**engine_options)
            # A misspelt folder is told at once: what comes next takes seconds to import.
            resolve_model(options.model)
            from treeserve.building import build_engine

            built = build_engine(options, place)
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
    """SIGTERM and SIGINT of this process, first and second.

    Args:
        on_hangup: What SIGHUP does.
    """

    def __init__(self, on_hangup: Callable[[], None]) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._receive)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)

    def _receive(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _startup_line(server: "Server", built: "BuiltEngine") -> str:
    model, admin_address = built.model, server.side.admin_address
    dtype = str(model.dtype).removeprefix("torch.")
    admin = "" if admin_address is None else f"admin {admin_address}, "
    return (
        f"treeserve {package_version()} is ready: grpc {server.grpc_address}, "
        f"http {server.http_address}, {admin}model {model.name} "
        f"({dtype}, {model.device}, {built.backend} attention, "
        f"{built.num_pages} pages)"
    )


def _describe(metrics: "Metrics", built: "BuiltEngine", engine_options: dict[str, Any]) -> None:
    from treeserve.config import EngineOptions
    from treeserve.server.engine_side import describe_engine

    describe_engine(metrics, built, EngineOptions(**engine_options), package_version())
