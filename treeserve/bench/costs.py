"""The costs that measured plans are made by: the calibrated ones, as an engine would have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from treeserve.attention.backend import default_cost_model
from treeserve.calibration.calibrate import calibrate
from treeserve.calibration.record import Calibration
from treeserve.calibration.store import find_calibration, store_calibration
from treeserve.calibration.subject import Subject, make_subject
from treeserve.errors import CalibrationError
from treeserve.probe import AttentionLayer
from treeserve.scheduler.plan.cost import CostModel

Costs: TypeAlias = Literal["measure", "auto", "off"]
"""measure: calibrate first where nothing is stored; auto: what is stored; off: built-in costs."""
_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class PlanningCosts:
    """A cost model and where it comes from."""

    model: CostModel
    source: str


def planning_costs(
    layers: Sequence[AttentionLayer],
    backend: str,
    dtype: torch.dtype,
    device: torch.device,
    costs: Costs,
    report: Callable[[str], None],
) -> PlanningCosts:
    """What an engine plans by for attention of this kind here.

    Args:
        layers: Of the model; what is worked out once a step is shared out among them.
        backend: That computes their attention.
        dtype: Of keys and values.
        device: Where.
        costs: Whether to measure, look up, or neither.
        report: Is told what is being measured, and what went wrong with it.
    """
    subject = make_subject(layers, backend, dtype, device)
    stored = None if costs == "off" else find_calibration(subject)
    if stored is None and costs == "measure":
        stored = _measure(subject, device, report)
    if stored is not None:
        return PlanningCosts(stored.constants.cost_model(), f"measured ({stored.measured_at})")
    built_in = default_cost_model(backend, 2 * subject.num_kv_heads * subject.head_dim)
    return PlanningCosts(built_in, "built-in")


def _measure(
    subject: Subject, device: torch.device, report: Callable[[str], None]
) -> Calibration | None:
    """Kept for later engines, as `treeserve calibrate` would."""
    try:
        calibration = calibrate(subject, device, seconds=_SECONDS, report=report)
        if not calibration.quality.is_trustworthy:
            report("calibration: its predictions miss by too much; planning by built-in costs")
            return None
        store_calibration(calibration)
    except CalibrationError as error:
        report(f"{error}; planning by built-in costs")
        return None
    return calibration
