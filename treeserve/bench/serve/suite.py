"""The service benchmark as a whole: every workload under every load, then what service costs."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import torch

from treeserve.bench.deadline import Deadline
from treeserve.bench.machine import describe_machine
from treeserve.bench.serve.cost import Cost, CostOptions, measure_cost
from treeserve.bench.serve.http_sockets import http_connected
from treeserve.bench.serve.load import Window, closed_loop, open_loop
from treeserve.bench.serve.records import Mode, Stage, Targets, make_stage
from treeserve.bench.serve.sockets import AnyCaller, Request, connected
from treeserve.bench.serve.workloads import Workload
from treeserve.config import EngineOptions

Progress = Callable[[str], None]
Door: TypeAlias = Literal["grpc", "http"]
_INDICES_PER_STAGE = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server that is measured."""

    address: str
    model: str
    """In its own words; empty: it was running before, and nobody asked."""
    pid: int | None
    """None: it is not ours."""
    door: Door = "grpc"
    """What the address is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What is measured, checked by the command."""

    workloads: tuple[Workload, ...]
    rates: tuple[float, ...]
    """Calls a second."""
    streams: tuple[int, ...]
    window: Window
    targets: Targets
    seed: int
    timeout_seconds: float
    """Of every call."""
    cost_streams: int
    cost_rounds: int
    """0: the service's own cost is left out."""
    engine: EngineOptions
    """Of the server, if it is ours."""
    time_limit: float | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """One stage to come."""

    workload: Workload
    mode: Mode
    load: float

    @property
    def title(self) -> str:
        what = "calls a second" if self.mode == "open" else "streams"
        return f"{self.workload.name}, {self.load:g} {what}"


async def run_serve(target: Target, options: ServeOptions, progress: Progress) -> dict[str, Any]:
    """Measure a server.

    Args:
        target: Ready.
        options: What.
        progress: Told what is being done.

    Raises:
        TreeserveError: The service's cost cannot be shown, for a call went wrong.
    """
    deadline = Deadline(options.time_limit)
    stages: list[Stage] = []
    left_out: list[str] = []
    cost: Cost | None = None
    open_door = http_connected if target.door == "http" else connected
    async with open_door(target.address, options.timeout_seconds) as caller:
        for number, plan in enumerate(_plans(options)):
            if _is_over(stages, deadline):
                left_out.append(plan.title)
                continue
            progress(plan.title)
            stages.append(await _run_stage(caller, target, options, plan, number))
        if options.cost_rounds and _is_over(stages, deadline):
            left_out.append("cost of the service")
        elif options.cost_rounds:
            cost = await measure_cost(caller, _cost_options(target, options), deadline, progress)
    return _result(target, options, stages, cost, left_out)


def has_failed(result: Mapping[str, Any]) -> bool:
    """Whether a call failed, was wrong, or the server went away; refusals are no failure."""
    return bool(result["summary"]["num_bad_stages"])


def _plans(options: ServeOptions) -> list[_Plan]:
    loads: list[tuple[Mode, float]] = [("open", rate) for rate in options.rates]
    loads += [("closed", float(number)) for number in options.streams]
    return [_Plan(workload, *load) for workload in options.workloads for load in loads]


def _is_over(stages: list[Stage], deadline: Deadline) -> bool:
    return deadline.left() <= 0 or bool(stages and stages[-1].gone)


async def _run_stage(
    caller: AnyCaller, target: Target, options: ServeOptions, plan: _Plan, number: int
) -> Stage:
    """Calls are new to every stage; only what a workload shares is known from the one before."""
    first = number * _INDICES_PER_STAGE

    def make(index: int) -> Request:
        return caller.request(plan.workload.call(options.seed, first + index))

    window = replace(options.window, server_pid=target.pid)
    if plan.mode == "open":
        load = await open_loop(caller, make, plan.load, window, options.seed + number)
    else:
        load = await closed_loop(caller, make, int(plan.load), window)
    return make_stage(plan.workload.name, plan.mode, plan.load, load, options.targets)


def _cost_options(target: Target, options: ServeOptions) -> CostOptions:
    return CostOptions(
        workload=options.workloads[0],
        engine=options.engine,
        streams=options.cost_streams,
        rounds=options.cost_rounds,
        seed=options.seed,
        server_pid=target.pid,
    )


def _result(
    target: Target,
    options: ServeOptions,
    stages: list[Stage],
    cost: Cost | None,
    left_out: list[str],
) -> dict[str, Any]:
    return {
        "benchmark": "serve",
        **describe_machine(torch.device("cpu")),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "server": {"address": target.address, "model": target.model, "door": target.door},
        "seed": options.seed,
        "warm_up_seconds": options.window.warm_up_seconds,
        "seconds": options.window.seconds,
        "targets": asdict(options.targets),
        "workloads": {workload.name: workload.title for workload in options.workloads},
        "stages": [stage.to_json() for stage in stages],
        "cost": None if cost is None else cost.to_json(),
        "left_out": left_out,
        "summary": {
            "num_stages": len(stages),
            "num_bad_stages": sum(stage.is_bad for stage in stages),
            "num_refused": sum(stage.refused for stage in stages),
        },
    }
