"""pass@k by the unbiased estimator, with confidence intervals over problems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """pass@k over `num_problems` problems, those with at least k samples; `low` and `high` bound
    the interval.
    """

    k: int
    value: float
    low: float
    high: float
    num_problems: int


def pass_at_k(num_samples: int, num_passing: int, k: int) -> float:
    """The chance that one of k samples drawn without replacement passes: 1 - C(n-c, k) / C(n, k),
    as a product, which does not overflow (Chen et al., 2021).
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be from 1 to {num_samples}, got {k}")
    if num_samples - num_passing < k:
        return 1.0
    terms = 1.0 - k / np.arange(num_samples - num_passing + 1, num_samples + 1)
    return float(1.0 - np.prod(terms))


def curve(
    counts: Sequence[tuple[int, int]], seed: int = 0, resamples: int = 2000
) -> list[Estimate]:
    """pass@k for k = 1, 2, 4, … and the largest number of samples.

    Args:
        counts: For each problem, its samples and how many of them pass.
        seed: Of the bootstrap: problems drawn with replacement, percentiles of their means.
    """
    largest = max((num_samples for num_samples, _ in counts), default=0)
    ks = [1 << i for i in range(largest.bit_length())]
    if largest and ks[-1] != largest:
        ks.append(largest)
    return [_estimate(counts, k, seed, resamples) for k in ks]


def _estimate(counts: Sequence[tuple[int, int]], k: int, seed: int, resamples: int) -> Estimate:
    values = np.array([pass_at_k(n, c, k) for n, c in counts if n >= k])
    rng = np.random.default_rng(seed)
    # One row of draws at a time: all at once could be gigabytes.
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(k, float(values.mean()), float(low), float(high), len(values))
