"""Which costs an engine plans with: measured ones, stored or fresh, else built-in ones."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from treeserve.attention.backend import default_cost_model
from treeserve.calibration.calibrate import calibrate
from treeserve.calibration.record import Calibration
from treeserve.calibration.store import find_calibration, store_calibration
from treeserve.calibration.subject import Subject
from treeserve.config import CalibrationMode
from treeserve.errors import CalibrationError
from treeserve.scheduler.plan.cost import CostModel

logger = logging.getLogger(__name__)

START_UP_SECONDS = 8.0
"""To measure for, where nothing is stored; beside what has to be compiled."""


@dataclass(frozen=True, slots=True)
class PlanningCosts:
    """A cost model and where it comes from."""

    model: CostModel
    source: str


def choose_costs(
    mode: CalibrationMode,
    subject: Subject,
    device: torch.device,
    report: Callable[[str], None],
    seconds: float = START_UP_SECONDS,
) -> PlanningCosts:
    """What the planner decides by.

    What goes wrong with measuring is logged and keeps no engine from starting: plans are then made
    by built-in costs.

    Args:
        mode: "measure": what is stored, else measured now and stored; "auto": that on cuda, else
            what is stored; "off": built-in costs.
        subject: What the attention is like.
        device: Where it runs; there is to be memory for a KV cache of a few hundred MB.
        report: Is told what is being done, a line at a time.
        seconds: For which to measure.
    """
    stored = None if mode == "off" else find_calibration(subject)
    if stored is None and (mode == "measure" or (mode == "auto" and device.type == "cuda")):
        stored = _measure(subject, device, report, seconds)
    if stored is not None:
        source = f"measured ({stored.measured_at})"
        return PlanningCosts(stored.constants.cost_model(), source)
    group = subject.num_heads // subject.num_kv_heads
    numbers_per_token = 2 * subject.num_kv_heads * subject.head_dim
    built_in = default_cost_model(subject.backend, numbers_per_token, group)
    return PlanningCosts(built_in, "built-in")


def measure_costs(
    subject: Subject,
    device: torch.device,
    report: Callable[[str], None] = lambda line: None,
    seconds: float = START_UP_SECONDS,
) -> Calibration:
    """A fresh calibration that can be trusted; not stored. Arguments as of choose_costs().

    Raises:
        CalibrationError: It cannot be measured, or not trusted.
    """
    try:
        calibration = calibrate(subject, device, seconds=seconds, report=report)
    finally:
        if device.type == "cuda":
            # What it took is for the KV pool, which is sized by the memory that is free.
            torch.cuda.empty_cache()
    reason = calibration.quality.why_not_trusted
    if reason is not None:
        raise CalibrationError(
            f"calibration: {reason}, so nothing is stored; try again while the machine does "
            "nothing else"
        )
    return calibration


def _measure(
    subject: Subject, device: torch.device, report: Callable[[str], None], seconds: float
) -> Calibration | None:
    """Kept for later engines, as `treeserve calibrate` would."""
    try:
        calibration = measure_costs(subject, device, report, seconds)
        store_calibration(calibration)
    except CalibrationError as error:
        logger.warning("%s; planning by built-in costs", error)
        return None
    return calibration
