"""The attention benchmark as a whole: values, rates, costs, then every tree and shape."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from treeserve.bench.attention.case import Bench, measure_case
from treeserve.bench.attention.problem import Shape
from treeserve.bench.attention.records import CaseResult, ValuesResult
from treeserve.bench.attention.sides import first_line
from treeserve.bench.attention.summary import summarize
from treeserve.bench.attention.values import check_values, dtypes_of, value_cases
from treeserve.bench.deadline import Allowance, Deadline
from treeserve.bench.machine import describe_machine, free_bytes
from treeserve.bench.rates import Rates, measure_rates
from treeserve.bench.timing import Stopwatch
from treeserve.calibration.choice import PlanningCosts, choose_costs
from treeserve.calibration.subject import make_subject
from treeserve.config import CalibrationMode
from treeserve.probe import AttentionLayer

_VALUES_SHARE = 0.3
"""Of the time limit, at most, for value checks beside those of the trees that are timed."""

_SETUP_SHARE = 0.12
"""Of the time limit, for getting each baseline ready, over all cases."""
_NUM_LAYERS = 32
"""Of the model that the costs are for: what is worked out once a step is shared out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteOptions:
    """What is measured, and for how long."""

    trees: Sequence[str]
    shapes: Sequence[Shape]
    backend: str
    device: torch.device
    rounds: int
    """Of every side, at most."""
    time_limit: float | None
    """Seconds."""
    costs: CalibrationMode
    checks_values: bool
    """Every dtype, head size, group ratio and option first."""
    by_cpu_time: bool = False
    """Of the process, with one thread, in place of the time that passes."""


def run_suite(options: SuiteOptions, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything.

    Args:
        options: What to measure.
        report: Is told what is being done, a line at a time.

    Returns:
        Plain data: device, versions, date, every case, the summary, and what was left out.
    """
    started = time.perf_counter()
    deadline = Deadline(options.time_limit)
    machine = describe_machine(options.device)
    values = None
    if options.checks_values:
        part = deadline.part(_VALUES_SHARE)
        cases = value_cases(dtypes_of(options.backend))
        values = check_values(options.backend, options.device, cases, part, report)
    measured = _measure_cases(options, deadline, report)
    return {
        "benchmark": "attention",
        **machine,
        "backend": options.backend,
        "clock": "cpu" if options.by_cpu_time else "wall",
        "time_limit_seconds": options.time_limit,
        "seconds": time.perf_counter() - started,
        "rates": {dtype: asdict(rates) for dtype, rates in measured.rates.items()},
        "costs": {_shape_name(shape): costs.source for shape, costs in measured.costs.items()},
        "values": None if values is None else _values_json(values),
        "cases": [case.to_json() for case in measured.cases],
        "summary": summarize(measured.cases),
        "errors": measured.errors,
        "left_out": measured.left_out,
    }


def has_failed(result: dict[str, Any]) -> bool:
    """Whether any of our own values were wrong, or a case broke off."""
    values_failed = result["values"] is not None and result["values"]["failed"]
    return bool(values_failed or result["summary"]["num_wrong"] or result["errors"])


@dataclass(frozen=True, slots=True)
class _Measured:
    rates: dict[str, Rates]
    costs: dict[Shape, PlanningCosts]
    cases: list[CaseResult]
    errors: list[dict[str, str]]
    left_out: list[str]


def _measure_cases(
    options: SuiteOptions, deadline: Deadline, report: Callable[[str], None]
) -> _Measured:
    device = options.device
    limit = options.time_limit
    bench = Bench(
        device,
        options.backend,
        Stopwatch(device, time.process_time if options.by_cpu_time else time.perf_counter),
        options.rounds,
        Allowance(None if limit is None else limit * _SETUP_SHARE),
    )
    measured = _Measured({}, {}, [], [], [])
    todo = [(shape, tree) for shape in options.shapes for tree in options.trees]
    for number, (shape, tree) in enumerate(todo):
        name = f"{tree}, {_shape_name(shape)}"
        if deadline.left() <= 0:
            measured.left_out.append(name)
            continue
        report(f"{number + 1} of {len(todo)}: {name}")
        try:
            _prepare(measured, bench, shape, options.costs, report)
            case = measure_case(
                bench,
                tree,
                shape,
                measured.costs[shape].model,
                measured.rates[shape.dtype],
                Deadline(_finite(deadline.share(len(todo) - number))),
            )
        except Exception as error:
            # One case that breaks off must not cost the others' results.
            measured.errors.append({"case": name, "error": first_line(error)})
            continue
        measured.cases.append(case)
        free_bytes(device)
    return measured


def _prepare(
    measured: _Measured,
    bench: Bench,
    shape: Shape,
    costs: CalibrationMode,
    report: Callable[[str], None],
) -> None:
    """Rates of the dtype and costs of the shape, each once."""
    if shape.dtype not in measured.rates:
        rates = measure_rates(bench.stopwatch, shape.torch_dtype, bench.device)
        measured.rates[shape.dtype] = rates
    if shape not in measured.costs:
        layer = AttentionLayer(shape.num_kv_heads, shape.head_dim, shape.num_heads, window=None)
        layers = [layer] * _NUM_LAYERS
        subject = make_subject(layers, bench.backend, shape.torch_dtype, bench.device)
        measured.costs[shape] = choose_costs(costs, subject, bench.device, report)


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds


def _shape_name(shape: Shape) -> str:
    return f"heads {shape.heads} of {shape.head_dim}, {shape.dtype}"


def _values_json(values: ValuesResult) -> dict[str, Any]:
    return {
        "num_checked": values.num_checked,
        "failed": [asdict(result) for result in values.failed],
        "left_out": list(values.left_out),
    }
