"""The pace: how long a step takes, learned from the steps before it."""

import numpy as np
from numpy.typing import NDArray

_FORGETTING = 0.99
"""Weight of a step against the next one: about the last hundred steps count."""
_PRIOR = 1e6


class Pace:
    """Predicts seconds from a step's rows and KV tokens by recursive least squares.

    After A. Sayed, Adaptive Filters (2008), chapter 12; with the three terms that a step's time is
    made of: a constant (the weights are read once), the rows, and the KV tokens that are read.
    """

    def __init__(self) -> None:
        self._weights: NDArray[np.float64] = np.zeros(3)
        self._inverse: NDArray[np.float64] = np.eye(3) * _PRIOR
        self._num_observed = 0
        self.mean_seconds_per_token = 0.0
        """Of a step, divided by its rows; 0 before the first one."""

    def predict(self, num_rows: int, num_kv_tokens: int) -> float:
        """Seconds, never negative; 0 before anything was observed."""
        return max(0.0, float(self._weights @ _terms(num_rows, num_kv_tokens)))

    def observe(self, num_rows: int, num_kv_tokens: int, seconds: float) -> None:
        terms = _terms(num_rows, num_kv_tokens)
        gain = self._inverse @ terms
        gain /= _FORGETTING + terms @ gain
        self._weights = self._weights + gain * (seconds - self._weights @ terms)
        self._inverse = (self._inverse - np.outer(gain, terms @ self._inverse)) / _FORGETTING
        np.clip(self._inverse, -_PRIOR, _PRIOR, out=self._inverse)
        self._num_observed += 1
        share = max(1 - _FORGETTING, 1 / self._num_observed)
        per_token = seconds / max(1, num_rows)
        self.mean_seconds_per_token += share * (per_token - self.mean_seconds_per_token)


def _terms(num_rows: int, num_kv_tokens: int) -> NDArray[np.float64]:
    """In units that make them of one size."""
    return np.array([1.0, num_rows / 256, num_kv_tokens / 65536])
