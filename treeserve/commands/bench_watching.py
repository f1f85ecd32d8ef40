"""`treeserve bench watching`: what it costs that browsers watch the page of a busy server."""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from treeserve.commands.options import (
    add_engine_options,
    given_engine_options,
    require_at_least,
)
from treeserve.errors import ConfigError, TreeserveError

if TYPE_CHECKING:
    from treeserve.building import BuiltEngine
    from treeserve.generation import TextService
    from treeserve.inspection import Inspection
    from treeserve.server.app import Server

_DESCRIPTION = """\
What watching costs: samples are drawn in this process without a pause, over a tree with many cached
nodes, while nobody watches the page, one browser does, and 64 do; all in turn, in several rounds.
Looks are what they take of the engine's thread; drawing and sending are what they take of the one
which serves the streams; both as parts of the time that passed. Tokens per second vary by more than
that from one round to the next.

  treeserve bench watching
  treeserve bench watching --nodes 10000 --streams 16 --seconds 20 --json
"""
_SIDES = (0, 1, 64)
_READER = """
import selectors, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ready = selectors.DefaultSelector()
for _ in range(count):
    opened = socket.create_connection((host, port))
    opened.sendall(b"GET /page/events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    ready.register(opened, selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        if not key.fileobj.recv(1 << 20):
            sys.exit(1)
"""


@dataclass(frozen=True, slots=True)
class WatchingCost:
    """Of one number of watchers: medians over the rounds."""

    watchers: int
    nodes: int
    tokens_per_second: float
    looks_per_second: float
    look_share: float
    """Of the engine's thread."""
    page_share: float
    """Of the event loop's thread, drawing and sending."""


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "watching", help="what watching the page costs", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--nodes", type=int, default=10_000, metavar="N", help="cached; default: %(default)s")
    add("--streams", type=int, default=8, metavar="N", help="of samples; default: %(default)s")
    add("--seconds", type=float, default=10.0, help="of each stretch; default: %(default)g")
    add("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    add("--json", action="store_true", help="one JSON object a line")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    require_at_least(args, nodes=1, streams=1, rounds=1)
    if not 1 <= args.seconds <= 3600:
        raise ConfigError(f"--seconds: must be between 1 and 3600, got {args.seconds:g}")
    costs = asyncio.run(_measure(args))
    for cost in costs:
        if args.json:
            print(json.dumps(asdict(cost)))
            continue
        print(
            f"{cost.watchers:3.0f} watch {cost.nodes:,.0f} nodes"
            f" {cost.tokens_per_second:8.0f} tokens/s {cost.looks_per_second:6.2f} looks/s:"
            f" {cost.look_share:7.3%} of the engine's thread;"
            f" drawing and sending {cost.page_share:7.3%} of the streams'"
        )
    return 0


async def _measure(args: argparse.Namespace) -> list[WatchingCost]:
    rounds: dict[int, list[WatchingCost]] = {count: [] for count in _SIDES}
    async with _serving(args) as house:
        for number in range(args.rounds):
            for count in _SIDES:
                async with _watchers(house.server, count):
                    rounds[count].append(await _stretch(house, count, args))
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    return [_median(costs) for costs in rounds.values()]


def _median(costs: list[WatchingCost]) -> WatchingCost:
    columns = zip(*(asdict(cost).values() for cost in costs), strict=True)
    return WatchingCost(*(statistics.median(column) for column in columns))


@dataclass(frozen=True, slots=True, eq=False)
class _House:
    server: "Server"
    inspection: "Inspection"
    text_service: "TextService"


@contextlib.asynccontextmanager
async def _serving(args: argparse.Namespace) -> AsyncIterator[_House]:
    """A server over real sockets whose engine has many cached nodes."""
    from treeserve.building import build_engine
    from treeserve.commands.backstage import BackstageOptions, make_backstage
    from treeserve.config import EngineOptions
    from treeserve.generation import TextService
    from treeserve.loop import EngineLoop
    from treeserve.metrics import Metrics
    from treeserve.server.app import Server
    from treeserve.server.config import Address, ServerConfig
    from treeserve.server.engine_watch import EngineWatch

    options = given_engine_options(args)
    built = build_engine(EngineOptions(**options))
    _fill(built, args.nodes)
    anywhere, watch = Address("127.0.0.1", 0), EngineWatch()
    server = Server(ServerConfig(grpc_address=anywhere, http_address=anywhere), Metrics(), watch)
    loop = EngineLoop(built.engine, watch.observe)
    await server.start()
    loop.start()
    try:
        backstage = make_backstage(built, options, BackstageOptions(), loop)
        text_service = TextService(loop, built.prompter)
        await server.set_ready(text_service, lambda: loop.healthy, backstage)
        yield _House(server, backstage.inspection, text_service)
    finally:
        await server.stop()
        loop.stop()


def _fill(built: "BuiltEngine", num_nodes: int) -> None:
    """Leaves of a few tokens beneath a hundred branches; what they hold is nobody's."""
    import numpy as np

    from treeserve.scheduler.tree.prefix import Prefix

    tree, _ = built.engine.scheduler.insides()
    for number in range(num_nodes):
        tokens = np.array([9, 10 + number % 100, 10 + number // 100, 11], dtype=np.int32)
        prefix = Prefix(tokens, "filler")
        above = tree.match(prefix)
        if above.end_position == len(prefix):
            continue
        leaf = tree.insert_pending(above, prefix)
        if leaf is None:
            raise TreeserveError("the pool is too small for the nodes: give --num-pages")
        tree.pin(leaf)
        tree.mark_computed(leaf, len(leaf))
        tree.unpin(leaf)


async def _stretch(house: _House, count: int, args: argparse.Namespace) -> WatchingCost:
    """Everything over some time, in which samples are drawn."""
    drawing = [asyncio.create_task(_draw(house, number)) for number in range(args.streams)]
    await asyncio.sleep(1)
    started, before = time.perf_counter(), _numbers(house)
    await asyncio.sleep(args.seconds)
    seconds = time.perf_counter() - started
    drawn, looks, look_seconds, page_seconds = (
        after - first for first, after in zip(before, _numbers(house), strict=True)
    )
    for task in drawing:
        task.cancel()
    await asyncio.gather(*drawing, return_exceptions=True)
    return WatchingCost(
        watchers=count,
        nodes=args.nodes,
        tokens_per_second=drawn / seconds,
        looks_per_second=looks / seconds,
        look_share=look_seconds / seconds,
        page_share=page_seconds / seconds,
    )


def _numbers(house: _House) -> tuple[float, ...]:
    totals, inspection = house.server.step_totals, house.inspection
    looks = inspection.num_looks, inspection.look_seconds
    return (totals.drawn_tokens, *looks, house.server.page_seconds)


async def _draw(house: _House, number: int) -> None:
    from treeserve.types import RequestOptions, SamplingParams

    params = SamplingParams(n=2, max_tokens=64, seed=number, ignore_eos=True)
    prompt = f"Read some numbers and print their sum. Case {number}: "
    while True:
        stream = house.text_service.generate(
            prompt,
            params,
            output=None,
            options=RequestOptions(),
            admit=lambda size: contextlib.nullcontext(),
        )
        async for _ in stream:
            pass


@contextlib.asynccontextmanager
async def _watchers(server: "Server", count: int) -> AsyncIterator[None]:
    """So many, in a process of their own."""
    address = server.http_address
    given = (address.host, str(address.port), str(count))
    if not count:
        yield
        return
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _READER, *given)
    try:
        async with asyncio.timeout(60):
            while server.num_page_watchers < count:
                await asyncio.sleep(0.05)
        yield
    finally:
        process.kill()
        await process.wait()
        while server.num_page_watchers:
            await asyncio.sleep(0.05)
