"""One tree under one shape of attention: every side checked first, then all timed in turn."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from treeserve.attention.backend import make_backend
from treeserve.batch import make_batch
from treeserve.bench.attention.flash_infer import make_cascade, make_decode
from treeserve.bench.attention.flex import make_flex
from treeserve.bench.attention.floor import least_work
from treeserve.bench.attention.paths import TreePaths, tree_paths
from treeserve.bench.attention.problem import TOLERANCES, Problem, Shape, make_problem
from treeserve.bench.attention.problem import relative_error as error_of
from treeserve.bench.attention.records import OURS, PLAIN, SHARED, TORCH, CaseResult, SideResult
from treeserve.bench.attention.sdpa import make_sdpa
from treeserve.bench.attention.sides import Side, SideMaker, Subject, Unavailable, first_line
from treeserve.bench.attention.trees import PlannedStep, plan_decode
from treeserve.bench.deadline import Allowance, Deadline
from treeserve.bench.rates import Rates
from treeserve.bench.timing import Mode, Run, Stopwatch, capture
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.step import Int32Array

BASELINE_MAKERS: Mapping[str, SideMaker] = {
    "sdpa": make_sdpa,
    "flex": make_flex,
    "flashinfer_decode": make_decode,
    "flashinfer_cascade": make_cascade,
}
_SHORT_PREFIX = 64


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What all cases are measured with."""

    device: torch.device
    backend: str
    stopwatch: Stopwatch
    rounds: int
    allowance: Allowance
    """For getting each baseline ready: compiling it, most of all."""


@dataclass(frozen=True, slots=True, eq=False)
class _Checked:
    """A side whose values are right, in each mode in which it runs."""

    calls: Mapping[Mode, Callable[[], object]]
    error: float
    note: str
    reason: str = ""


@torch.inference_mode()
def measure_case(
    bench: Bench, tree: str, shape: Shape, cost_model: CostModel, rates: Rates, deadline: Deadline
) -> CaseResult:
    """Values of all sides against the reference, then times, all sides in turn.

    Args:
        bench: What is measured with.
        tree: In the notation of `parse_tree`.
        shape: Of the attention.
        cost_model: By which sharing is planned.
        rates: Of the device, for the floor.
        deadline: When no further round begins.
    """
    planned = {
        SHARED: plan_decode(tree, "on", cost_model),
        PLAIN: plan_decode(tree, "off", cost_model),
    }
    plain_step = planned[PLAIN].step
    paths = tree_paths(plain_step)
    problem = make_problem(plain_step, shape, bench.device)
    reference = make_backend("reference", problem.cache)
    truth = problem.attend(reference, make_batch(plain_step, bench.device, reference)).float()
    found = _check_ours(bench, problem, planned, truth)
    if all(isinstance(side, _Checked) for side in found.values()):
        found |= _check_torch(bench, problem, planned[SHARED], truth)
        found |= _check_baselines(bench, Subject(problem, paths), truth)
        sides = _time_sides(bench, found, deadline)
    else:
        sides = {name: _untimed(side) for name, side in found.items()}
    return _result(tree, shape, planned[SHARED], paths, rates, sides)


def _check_ours(
    bench: Bench, problem: Problem, planned: Mapping[str, PlannedStep], truth: Tensor
) -> dict[str, "_Checked | SideResult"]:
    own = problem.read_by(bench.backend)
    backend = make_backend(bench.backend, own.cache, problem.shape.group)
    found: dict[str, _Checked | SideResult] = {}
    for name in OURS:
        batch = make_batch(planned[name].step, bench.device, backend)
        side = Side(own.call(backend, batch), is_depth_first=False)
        found[name] = _check(bench.device, side, truth, truth, problem.shape.dtype)
    return found


def _check_torch(
    bench: Bench, problem: Problem, planned: PlannedStep, truth: Tensor
) -> dict[str, "_Checked | SideResult"]:
    """What the cpu backend stands in for, over the same plan."""
    if bench.backend != "cpu":
        return {}
    backend = make_backend("torch", problem.cache)
    batch = make_batch(planned.step, bench.device, backend)
    side = Side(problem.call(backend, batch), is_depth_first=False)
    return {TORCH: _check(bench.device, side, truth, truth, problem.shape.dtype)}


def _check_baselines(
    bench: Bench, subject: Subject, truth: Tensor
) -> dict[str, "_Checked | SideResult"]:
    order = torch.from_numpy(subject.paths.order).to(bench.device)
    ordered_truth = truth.index_select(0, order)
    found: dict[str, _Checked | SideResult] = {}
    for name, make in BASELINE_MAKERS.items():
        if bench.allowance.is_used_up(name):
            spent = bench.allowance.spent(name)
            reason = f"the time limit: getting it ready took {spent:.0f} s before"
            found[name] = SideResult(status="skipped", reason=reason)
            continue
        started = time.perf_counter()
        try:
            side = make(subject)
            dtype = subject.problem.shape.dtype
            found[name] = _check(bench.device, side, truth, ordered_truth, dtype)
        except Unavailable as error:
            found[name] = SideResult(status="skipped", reason=str(error))
        except Exception as error:
            # What another library refuses must not end the benchmark.
            found[name] = SideResult(status="skipped", reason=first_line(error))
        bench.allowance.spend(name, time.perf_counter() - started)
    return found


def _check(
    device: torch.device, side: Side, truth: Tensor, ordered_truth: Tensor, dtype: str
) -> "_Checked | SideResult":
    """The side's calls, eager and as a graph, if the values of both are right."""
    expected = ordered_truth if side.is_depth_first else truth
    wrong = partial(_wrong_side, expected=expected, dtype=dtype, note=side.note)
    error = error_of(side.call(), expected)
    calls: dict[Mode, Callable[[], object]] = {"eager": side.call}
    if not error <= TOLERANCES[dtype]:
        return wrong(error, "values differ from the reference")
    if device.type != "cuda":
        return _Checked(calls, error, side.note)
    try:
        captured = capture(side.call)
    except Exception as problem:
        return _Checked(calls, error, side.note, f"no CUDA graph: {first_line(problem)}")
    graph_error = error_of(captured(), expected)
    if not graph_error <= TOLERANCES[dtype]:
        return wrong(graph_error, "values of the CUDA graph differ from the reference")
    return _Checked({**calls, "graph": captured}, max(error, graph_error), side.note)


def _wrong_side(
    error: float, reason: str, *, expected: Tensor, dtype: str, note: str
) -> SideResult:
    known = error if math.isfinite(error) else None
    by = "are not numbers" if known is None else f"by {error:.1e} of {expected.abs().max():.2g}"
    reason = f"{reason}: {by}, allowed {TOLERANCES[dtype]:.0e}"
    return SideResult(status="wrong", reason=reason, error=known, note=note)


def _time_sides(
    bench: Bench, found: Mapping[str, "_Checked | SideResult"], deadline: Deadline
) -> dict[str, SideResult]:
    runs = {
        f"{name} {mode}": Run(call, mode)
        for name, side in found.items()
        if isinstance(side, _Checked)
        for mode, call in side.calls.items()
    }
    seconds = bench.stopwatch.time_in_turn(runs, bench.rounds, deadline)
    return {name: _side_result(name, side, seconds) for name, side in found.items()}


def _side_result(
    name: str, side: "_Checked | SideResult", seconds: Mapping[str, list[float]]
) -> SideResult:
    if isinstance(side, SideResult):
        return side
    eager, graph = seconds[f"{name} eager"], seconds.get(f"{name} graph")
    return SideResult(
        status="timed",
        reason=side.reason,
        note=side.note,
        error=side.error,
        eager_seconds=statistics.median(eager),
        graph_seconds=None if graph is None else statistics.median(graph),
        rounds=len(eager),
    )


def _untimed(side: "_Checked | SideResult") -> SideResult:
    if isinstance(side, SideResult):
        return side
    reason = "not timed: another plan's values are wrong"
    return SideResult(status="skipped", reason=reason, error=side.error)


def _result(
    tree: str,
    shape: Shape,
    planned: PlannedStep,
    paths: TreePaths,
    rates: Rates,
    sides: dict[str, SideResult],
) -> CaseResult:
    work = least_work(paths, shape)
    floor = work.floor(rates)
    plan = planned.step.plan
    return CaseResult(
        tree=tree,
        heads=shape.heads,
        head_dim=shape.head_dim,
        dtype=shape.dtype,
        rows=paths.num_rows,
        distinct_tokens=work.distinct_tokens,
        flat_tokens=work.flat_tokens,
        bound=work.bound,
        floor_seconds=floor.seconds,
        floor_limited_by=floor.limited_by,
        work_items=plan.num_items,
        shared_items=plan.counts.num_shared_items,
        plan_seconds=planned.plan_seconds,
        carried_plan_seconds=planned.carried_plan_seconds,
        never_a_loss=never_a_loss(paths),
        sides=sides,
    )


def never_a_loss(paths: TreePaths) -> str:
    """Why sharing must not lose on such a tree, or nothing."""
    if paths.num_rows == 1:
        return "batch 1"
    shared = [_shared_beginning(a, b) for a, b in zip(paths.slots, paths.slots[1:], strict=False)]
    if max(shared) == 0:
        return "nothing shared"
    return f"prefixes of at most {_SHORT_PREFIX} tokens" if max(shared) <= _SHORT_PREFIX else ""


def _shared_beginning(left: Int32Array, right: Int32Array) -> int:
    """Tokens that two paths have in common."""
    length = min(len(left), len(right))
    differ = np.flatnonzero(left[:length] != right[:length])
    return int(differ[0]) if len(differ) else length
