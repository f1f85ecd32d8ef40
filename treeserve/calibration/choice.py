"""Which costs an engine plans with: measured ones where they are stored, else built-in ones."""

import logging

from treeserve.attention.backend import default_cost_model
from treeserve.calibration.store import find_calibration
from treeserve.calibration.subject import Subject
from treeserve.config import CalibrationMode
from treeserve.scheduler.plan.cost import CostModel

logger = logging.getLogger(__name__)


def choose_cost_model(mode: CalibrationMode, subject: Subject) -> CostModel:
    """What the planner decides by; says in the log where it comes from."""
    stored = find_calibration(subject) if mode == "auto" else None
    if stored is not None:
        logger.info("attention costs as measured on this device at %s", stored.measured_at)
        return stored.constants.cost_model()
    logger.info("built-in attention costs; `treeserve calibrate` measures those of this device")
    return default_cost_model(subject.backend, 2 * subject.num_kv_heads * subject.head_dim)
