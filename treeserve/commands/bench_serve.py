"""`treeserve bench serve`: what callers get under load over sockets, and the service's cost."""

import argparse
import asyncio
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from treeserve.commands.bench_result import (
    add_result_options,
    check_result_options,
    read_result,
    show_result,
)
from treeserve.commands.options import (
    ENGINE_OPTIONS,
    add_engine_options,
    given_engine_options,
    reject_together,
)
from treeserve.commands.progress import ProgressLine
from treeserve.commands.server_process import running_server
from treeserve.errors import ConfigError, TreeserveError
from treeserve.server.config import parse_address

if TYPE_CHECKING:
    from treeserve.bench.serve.suite import ServeOptions, Target

_DESCRIPTION = """\
Calls over gRPC, or over HTTP with --door http: at random times at a rate, whatever becomes of them
(open loop), and so many streams always open (closed loop). Four workloads: chats under one system
prompt, trees of contest problems, questions about documents, and prompts that share nothing. Then
the service's own cost: tokens a second through the socket against the engine alone, on the same
calls, in turn. Starts a server of its own, a process with the given engine options, and ends it;
--server measures one that runs. Every stream's end, usage and token count are checked; if a call
fails or the server goes away, the exit status is 1. Refused calls are counted, and are no failure.

  treeserve bench serve                                       about three minutes
  treeserve bench serve --workload chat --rate 4,16,64 --cost-rounds 0
  treeserve bench serve --streams 64 --json --output serve.json
  treeserve bench serve --server 127.0.0.1:50051 --rate 2
  treeserve bench serve --door http --workload chat           the HTTP door beside the engine
"""
_CONNECT_SECONDS = 5.0
_RATES, _STREAMS = "2,8", "64"
_MOST_STREAMS = 1024


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "serve", help="the service under load, and what it costs", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--server", metavar="ADDRESS", help="host:port of one that runs; default: one of its own")
    add(
        "--door", choices=("grpc", "http"), default="grpc",
        help="which to call through; default: %(default)s",
    )  # fmt: skip
    add(
        "--workload", default="chat,contest,documents,unshared", metavar="NAME,…",
        help="default: %(default)s",
    )  # fmt: skip
    add(
        "--rate", metavar="CALLS/S,…",
        help=f"of the open loop; default: {_RATES}, or none with --streams",
    )  # fmt: skip
    add(
        "--streams", metavar="N,…",
        help=f"of the closed loop; default: {_STREAMS}, or none with --rate",
    )  # fmt: skip
    add("--seconds", type=float, default=10.0, help="measured of each; default: %(default)g")
    add(
        "--warm-up", type=float, default=3.0, metavar="SECONDS", help="before; default: %(default)g"
    )
    add("--seed", type=int, default=0, help="of calls and times; default: %(default)s")
    add(
        "--ttft-target", type=float, default=500.0, metavar="MS",
        help="time to first token of a good call; default: %(default)g",
    )  # fmt: skip
    add(
        "--tpot-target", type=float, default=50.0, metavar="MS",
        help="time per token after it; default: %(default)g",
    )  # fmt: skip
    add(
        "--call-timeout", type=float, default=60.0, metavar="SECONDS",
        help="deadline of every call; default: %(default)g",
    )  # fmt: skip
    add(
        "--cost-rounds", type=int, metavar="N",
        help="rounds that measure the service's own cost, 0: none; default: 5, 0 with --server",
    )  # fmt: skip
    add(
        "--cost-streams", type=int, default=64, metavar="N",
        help="open at once then; default: %(default)s",
    )  # fmt: skip
    add_engine_options(parser)
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and show what was found; 1 if a call failed or the server went away."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "serve")
    from treeserve.bench.serve.suite import has_failed
    from treeserve.bench.serve.table import render_serve

    show_result(args, result, render_serve)
    return int(has_failed(result))


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    options = _options(args)
    from treeserve.bench.serve.suite import run_serve

    with ProgressLine() as progress, _target(args, progress) as target:
        return asyncio.run(run_serve(target, options, progress.start))


def _options(args: argparse.Namespace) -> "ServeOptions":
    for name in ("seconds", "ttft_target", "tpot_target", "call_timeout"):
        _require(f"--{name.replace('_', '-')}", getattr(args, name), above=0)
    if not 0 <= args.warm_up < math.inf:
        raise ConfigError(f"--warm-up: must be at least 0 seconds, got {args.warm_up:g}")
    if args.server is not None:
        why = "that server has its own"
        reject_together(args, ENGINE_OPTIONS, "--server", why)
        parse_address("--server", args.server)
    cost_rounds = _cost_rounds(args)
    from treeserve.bench.serve.load import Window
    from treeserve.bench.serve.records import Targets
    from treeserve.bench.serve.suite import ServeOptions
    from treeserve.bench.serve.workloads import read_workloads
    from treeserve.config import EngineOptions

    return ServeOptions(
        workloads=tuple(read_workloads(args.workload)),
        rates=_rates(args),
        streams=_streams(args),
        window=Window(args.warm_up, args.seconds),
        targets=Targets(args.ttft_target, args.tpot_target),
        seed=args.seed,
        timeout_seconds=args.call_timeout,
        cost_streams=args.cost_streams,
        cost_rounds=cost_rounds,
        engine=EngineOptions(**given_engine_options(args)),
        time_limit=args.time_limit,
    )


@contextmanager
def _target(args: argparse.Namespace, progress: ProgressLine) -> "Iterator[Target]":
    from treeserve.bench.serve.suite import Target

    if args.server is not None:
        _require_listening(args.server)
        yield Target(address=args.server, model="", pid=None, door=args.door)
        return
    progress.start("starting a server")
    with running_server(given_engine_options(args)) as server:
        address = server.http_address if args.door == "http" else server.grpc_address
        progress.start(f"ready: {args.door} {address}, {server.model}")
        yield Target(address=address, model=server.model, pid=server.pid, door=args.door)


def _require_listening(server: str) -> None:
    """Or every load would be begun, and a table without figures be the answer."""
    address = parse_address("--server", server)
    try:
        socket.create_connection((address.host, address.port), _CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise TreeserveError(f"--server: nothing answers at {server}: {reason}") from error


def _cost_rounds(args: argparse.Namespace) -> int:
    if not 1 <= args.cost_streams <= _MOST_STREAMS:
        raise ConfigError(
            f"--cost-streams: must be from 1 to {_MOST_STREAMS}, got {args.cost_streams}"
        )
    rounds: int | None = args.cost_rounds
    if rounds is None:
        return 5 if args.server is None else 0
    if rounds < 0:
        raise ConfigError(f"--cost-rounds: must be at least 0, got {rounds}")
    if rounds and args.server is not None:
        raise ConfigError(
            "--cost-rounds: not with --server: the engine alone would be another one; give 0"
        )
    return rounds


def _rates(args: argparse.Namespace) -> tuple[float, ...]:
    text = args.rate or ("" if args.streams else _RATES)
    try:
        rates = tuple(float(part) for part in text.split(",") if text)
    except ValueError as error:
        raise ConfigError(f"--rate: {text!r} is not a list of numbers like 2,8") from error
    for rate in rates:
        _require("--rate", rate, above=0)
    return rates


def _streams(args: argparse.Namespace) -> tuple[int, ...]:
    text = args.streams or ("" if args.rate else _STREAMS)
    try:
        streams = tuple(int(part) for part in text.split(",") if text)
    except ValueError as error:
        raise ConfigError(f"--streams: {text!r} is not a list of numbers like 16,64") from error
    for number in streams:
        if not 1 <= number <= _MOST_STREAMS:
            raise ConfigError(f"--streams: must be from 1 to {_MOST_STREAMS}, got {number}")
    return streams


def _require(option: str, value: float, above: float) -> None:
    if not above < value < math.inf:
        raise ConfigError(f"{option}: must be more than {above:g}, got {value:g}")
