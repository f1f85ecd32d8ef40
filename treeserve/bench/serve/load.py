"""The load on a server: calls at random times whatever becomes of them, or so many always open."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from treeserve.bench.serve.cpu_time import Stopwatch, Taken
from treeserve.bench.serve.sockets import AnyCaller, CallRecord, Meter, Request

GONE = "UNAVAILABLE"
_LEAD_SECONDS = 0.1
"""Between the making of a load and its first call."""


@dataclass(frozen=True, slots=True)
class Window:
    """How long: what is measured comes after a warm-up."""

    warm_up_seconds: float
    seconds: float
    server_pid: int | None = None
    """Whose CPU time is read. None: the server's is not ours to read."""


@dataclass(slots=True)
class Load:
    """What happened under one load."""

    meter: Meter
    records: list[CallRecord] = field(default_factory=list)
    """Of calls that were due within the window, in the order in which they ended."""
    taken: Taken | None = None
    """Within the window. None: the server went away before its end."""
    gone: str = ""
    """What the server said when it took no more calls; empty: it took them to the end."""

    @property
    def seconds(self) -> float:
        return self.meter.end - self.meter.start


async def open_loop(
    caller: AnyCaller, make: Callable[[int], Request], rate: float, window: Window, seed: int
) -> Load:
    """Calls arrive as a Poisson process, whether or not the server keeps up.

    Args:
        caller: Connected.
        make: The request at an index.
        rate: Calls a second.
        window: How long.
        seed: Of the times.
    """
    dues = list(_arrivals(rate, window, seed))
    requests = [make(index) for index in range(len(dues))]
    load, start = _begin(window)
    calls = _Calls(caller, load)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch_cpu(load, window.server_pid))
        for due, request in zip(dues, requests, strict=True):
            if await calls.is_gone_before(start + due):
                break
            group.create_task(calls.make(request, start + due))
        if await calls.is_gone_before(load.meter.end):
            watch.cancel()
    return load


async def closed_loop(
    caller: AnyCaller, make: Callable[[int], Request], num_streams: int, window: Window
) -> Load:
    """So many calls are always open; a stream whose call fails opens no other one."""
    load, start = _begin(window)
    calls = _Calls(caller, load)
    indices = count()

    async def stream() -> None:
        await asyncio.sleep(start - time.perf_counter())
        # Due at the start however late this client is: else its delay would count for nothing, and
        # one that is later than the window would make no call.
        due = start
        while due < load.meter.end:
            if not await calls.make(make(next(indices)), due):
                return
            due = time.perf_counter()

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch_cpu(load, window.server_pid))
        for _ in range(num_streams):
            group.create_task(stream())
        if await calls.is_gone_before(load.meter.end):
            watch.cancel()
    return load


async def finish_all(
    caller: AnyCaller, requests: Sequence[Request], num_streams: int, server_pid: int | None
) -> tuple[Taken, list[CallRecord]]:
    """What all of them take, so many open at once, and how they went."""
    watch = Stopwatch(server_pid)
    meter = Meter(time.perf_counter(), float("inf"))
    left = iter(requests)
    records: list[CallRecord] = []

    async def stream() -> None:
        for request in left:
            records.append(await caller.make(request, time.perf_counter(), meter))

    async with asyncio.TaskGroup() as group:
        for _ in range(num_streams):
            group.create_task(stream())
    return watch.taken(), records


class _Calls:
    """Makes calls and keeps the records of those that were due within the window."""

    def __init__(self, caller: AnyCaller, load: Load) -> None:
        self._caller = caller
        self._load = load
        self._is_gone = asyncio.Event()

    async def make(self, request: Request, due: float) -> bool:
        """Whether it went well."""
        load = self._load
        record = await self._caller.make(request, due, load.meter)
        if load.meter.start <= due < load.meter.end:
            load.records.append(record)
        if record.status == GONE and not load.gone:
            load.gone = record.details or GONE
            self._is_gone.set()
            load.meter.end = min(load.meter.end, max(load.meter.start, record.end))
        return record.is_good

    async def is_gone_before(self, time_: float) -> bool:
        """Wait until then, or until the server takes no more calls."""
        seconds = time_ - time.perf_counter()
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_gone.wait(), seconds)
        return self._is_gone.is_set()


def _begin(window: Window) -> tuple[Load, float]:
    start = time.perf_counter() + _LEAD_SECONDS
    first = start + window.warm_up_seconds
    return Load(Meter(first, first + window.seconds)), start


def _arrivals(rate: float, window: Window, seed: int) -> Iterator[float]:
    draw = random.Random(seed)
    due = draw.expovariate(rate)
    while due < window.warm_up_seconds + window.seconds:
        yield due
        due += draw.expovariate(rate)


async def _watch_cpu(load: Load, server_pid: int | None) -> None:
    await asyncio.sleep(max(0.0, load.meter.start - time.perf_counter()))
    watch = Stopwatch(server_pid)
    await asyncio.sleep(max(0.0, load.meter.end - time.perf_counter()))
    load.taken = watch.taken()
