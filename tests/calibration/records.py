"""A calibration made by hand, for tests that store, show or plan by one."""

from dataclasses import replace

from treeserve.calibration.fit import Constants, Crossover, Quality
from treeserve.calibration.record import Calibration
from treeserve.calibration.subject import Subject

CONSTANTS = Constants(
    base_cost=4e-5,
    token_cost=3e-8,
    item_cost=0.0,
    state_cost=1e-6,
    sharing_cost=8e-5,
    row_token_cost=6e-9,
    stored_token_cost=9e-8,
    max_item_tokens=None,
)
QUALITY = Quality(
    num_trees=16,
    median_error=0.05,
    p90_error=0.15,
    num_wrong=1,
    mean_loss=0.004,
    worst_loss=0.06,
)
SUBJECT = Subject(
    device="cpu: some",
    num_threads=2,
    backend="torch",
    dtype="float32",
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    softcap=None,
    num_layers=4,
    treeserve="0.1.0",
    torch="2.13.0",
    triton="none",
    code="0123456789abcdef",
)


def make_calibration(subject: Subject = SUBJECT, **constants) -> Calibration:
    return Calibration(
        subject=subject,
        constants=replace(CONSTANTS, **constants),
        quality=QUALITY,
        crossovers=(Crossover(2, 4096, None, 4096), Crossover(8, 512, 256, 4096)),
        measured_at="2026-11-21T10:00:00+00:00",
        seconds=8.0,
    )
