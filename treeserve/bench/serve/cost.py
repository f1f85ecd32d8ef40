"""The service's own cost: tokens per second through the socket against the engine alone."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from treeserve.bench.deadline import Deadline
from treeserve.bench.serve.cpu_time import Taken
from treeserve.bench.serve.in_process import EngineAlone, TextServiceAlone, both_alone
from treeserve.bench.serve.load import finish_all
from treeserve.bench.serve.sockets import AnyCaller
from treeserve.bench.serve.workloads import Call, Workload
from treeserve.config import EngineOptions
from treeserve.errors import TreeserveError

SOCKET, TEXT, ENGINE = "socket", "text service", "engine"
SIDES = (SOCKET, TEXT, ENGINE)
AIM = 0.95
_CALLS_PER_STREAM = 3
_FIRST_INDEX = 1 << 40
"""Beyond the calls of any load, so that no prompt is known already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    """What is measured, and how long."""

    workload: Workload
    engine: EngineOptions
    """Of the server, and of the engines in this process."""
    streams: int
    """Open at once."""
    rounds: int
    """Timed ones, at most."""
    seed: int
    server_pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Medians over rounds in which every side runs in turn; the first round is not in them."""

    workload: str
    streams: int
    rounds: int
    calls: int
    """Of each side and round."""
    drawn_tokens: int
    """Of each side, over all rounds; every one was counted where it arrived."""
    tokens_per_second: dict[str, float]
    """Drawn, by side."""
    cpu_us_per_token: dict[str, float | None]
    """CPU time of a side's process for a drawn token, which other load on the machine changes
    little; of the socket's, the server's process alone."""
    share_of_engine: float
    """Of the socket; the median of the ratios round by round."""
    share_of_engine_least: float
    share_of_engine_most: float
    text_share_of_engine: float
    """Of the text service, in this process and without sockets."""
    client_cpu_share: float
    """Of one core, while it read the socket."""
    server_cpu_share: float | None
    """Of one core, meanwhile."""
    threads: int
    """Of PyTorch, in each process."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "aim": AIM}


@dataclass(frozen=True, slots=True)
class _Round:
    """One turn of every side on the same calls."""

    num_tokens: int
    taken: dict[str, Taken]

    def rate(self, side: str) -> float:
        return self.num_tokens / self.taken[side].wall

    def share(self, side: str) -> float:
        return self.rate(side) / self.rate(ENGINE)

    def cpu_us(self, side: str) -> float | None:
        taken = self.taken[side]
        cpu = taken.server_cpu if side == SOCKET else taken.client_cpu
        return None if cpu is None else cpu * 1e6 / self.num_tokens


async def measure_cost(
    caller: AnyCaller, options: CostOptions, deadline: Deadline, progress: Callable[[str], None]
) -> Cost:
    """Time the three sides in turn, to and fro, on the same calls.

    Args:
        caller: Of a server with these engine options.
        options: What.
        deadline: When it passes, the round that runs is the last one.
        progress: Told what is being done.

    Raises:
        TreeserveError: A side did not draw what it was asked for: there are no times.
    """
    per_round = options.streams * _CALLS_PER_STREAM
    rounds: list[_Round] = []
    with both_alone(options.engine) as (engine, service):
        sides = _Sides(caller, engine, service, options)
        for number in range(options.rounds + 1):
            if number > 1 and deadline.left() <= 0:
                break
            progress(f"cost of the service: round {number} of {options.rounds}")
            first = _FIRST_INDEX + number * per_round
            calls = [options.workload.call(options.seed, first + i) for i in range(per_round)]
            order = SIDES if number % 2 else SIDES[::-1]
            taken = {side: await sides.finish_all(side, calls) for side in order}
            rounds.append(_Round(sum(call.num_drawn_tokens for call in calls), taken))
    return _sum_up(options, per_round, rounds[1:])


@dataclass(frozen=True, slots=True)
class _Sides:
    caller: AnyCaller
    engine: EngineAlone
    service: TextServiceAlone
    options: CostOptions

    async def finish_all(self, side: str, calls: Sequence[Call]) -> Taken:
        if side == SOCKET:
            return await self._over_socket(calls)
        if side == TEXT:
            return await self.service.finish_all(calls, self.options.streams)
        return self.engine.finish_all(calls, self.options.streams)

    async def _over_socket(self, calls: Sequence[Call]) -> Taken:
        requests = [self.caller.request(call) for call in calls]
        options = self.options
        taken, records = await finish_all(
            self.caller, requests, options.streams, options.server_pid
        )
        for record in records:
            if not record.is_good:
                problem = record.wrong or f"{record.status}: {record.details}"
                raise TreeserveError(f"no cost is shown, for a call went wrong: {problem}")
        return taken


def _sum_up(options: CostOptions, calls: int, rounds: Sequence[_Round]) -> Cost:
    shares = [each.share(SOCKET) for each in rounds]
    sockets = [each.taken[SOCKET] for each in rounds]
    wall = sum(taken.wall for taken in sockets)
    return Cost(
        workload=options.workload.name,
        streams=options.streams,
        rounds=len(rounds),
        calls=calls,
        drawn_tokens=sum(each.num_tokens for each in rounds),
        tokens_per_second={s: statistics.median(each.rate(s) for each in rounds) for s in SIDES},
        cpu_us_per_token={side: _median(each.cpu_us(side) for each in rounds) for side in SIDES},
        share_of_engine=statistics.median(shares),
        share_of_engine_least=min(shares),
        share_of_engine_most=max(shares),
        text_share_of_engine=statistics.median(each.share(TEXT) for each in rounds),
        client_cpu_share=sum(taken.client_cpu for taken in sockets) / wall,
        server_cpu_share=_share([taken.server_cpu for taken in sockets], wall),
        threads=torch.get_num_threads(),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _share(seconds: Sequence[float | None], wall: float) -> float | None:
    known = [value for value in seconds if value is not None]
    return sum(known) / wall if len(known) == len(seconds) else None
