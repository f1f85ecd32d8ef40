"""The cut: how long a work item may be, measured at the extremes, chosen only if it always wins."""

import numpy as np
from numpy.typing import NDArray

from treeserve.calibration.measure import AttentionTimer, StepSeconds
from treeserve.calibration.workloads import (
    cut_workload,
    flat_workload,
    make_step,
    one_prefix,
    shared_workload,
)
from treeserve.scheduler.step import Int32Array

CUTS = (None, 256, 512, 1024, 2048, 4096)
_HAS_TO_SAVE = 0.2
"""Of the time without a cut, in every round: a cut makes every long row merge."""
_ROUNDS_AT_A_TIME = 2


class CutRounds:
    """One long row, one long prefix and many rows, with every cut in turn, round after round.

    Rounds are some time apart, so that a busy moment does not decide.
    """

    def __init__(self, timer: AttentionTimer, slots: Int32Array) -> None:
        workloads = [
            flat_workload(one_prefix(len(slots) - 1024, 1), slots),
            shared_workload(one_prefix(len(slots) // 2, 16), slots),
            flat_workload(one_prefix(1024, 32), slots),
        ]
        self._timer = timer
        self._steps = [make_step(cut_workload(w, cut)) for w in workloads for cut in CUTS]
        self._rounds: list[list[StepSeconds]] = []

    def measure(self, seconds: float) -> None:
        """Some rounds more."""
        for _ in range(_ROUNDS_AT_A_TIME):
            taken = self._timer.time_in_turn(self._steps, seconds / _ROUNDS_AT_A_TIME)
            self._rounds.append(taken)

    def per_layer(self, num_layers: int) -> NDArray[np.float64]:
        """[num_rounds, num_workloads, num_cuts] seconds."""
        taken = [[t.per_layer(num_layers) for t in one_round] for one_round in self._rounds]
        return np.array(taken).reshape(len(taken), -1, len(CUTS))


def choose_cut(seconds: NDArray[np.float64]) -> int | None:
    """The cut that loses least where it does worst, or None where cutting does not surely pay.

    Args:
        seconds: [num_rounds, num_workloads, num_cuts]; the first cut is none at all.
    """
    in_round = _worst_losses(seconds)
    wins = (in_round < in_round[:, :1] * (1 - _HAS_TO_SAVE)).all(axis=0)
    overall = np.where(wins, _worst_losses(seconds.min(axis=0)), np.inf)
    return CUTS[int(overall.argmin())] if wins.any() else None


def _worst_losses(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., num_cuts] times as long as with the best cut, of the workload where that is most."""
    losses: NDArray[np.float64] = (seconds / seconds.min(axis=-1, keepdims=True)).max(axis=-2)
    return losses
