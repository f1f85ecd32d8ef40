"""A contest benchmark's sides as they come: each has to have drawn what the first one drew."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from treeserve.bench.contest.sides import SIDES, ContestFailed, Measured
from treeserve.bench.so_far import begin

_MOST_PARTED = 0.02
"""Of the draws: matrix products of other sizes round differently, and a draw may fall between.

One may part in any case. Where very many tokens are about equally likely, as with random weights,
draw greedily.
"""


class ResultSoFar:
    """Plain data that only holds sides which drew what the first one drew.

    Args:
        settings: What is measured, on which device.
        is_greedy: Samples of one problem are one and the same draw.
        before: An earlier result, whose sides are not measured again.

    Raises:
        ConfigError: The earlier result is of other settings.
    """

    def __init__(
        self, settings: Mapping[str, Any], is_greedy: bool, before: Mapping[str, Any] | None
    ) -> None:
        begun = begin(settings, before, ["sides", "drawn"])
        self._settings = begun.settings
        self._is_greedy = is_greedy
        self._sides: dict[str, dict[str, Any]] = dict(begun.parts.get("sides", {}))
        self._drawn: list[str] = list(begun.parts.get("drawn", ()))

    def __contains__(self, name: str) -> bool:
        return name in self._sides

    def __bool__(self) -> bool:
        return bool(self._sides)

    def peak_batch(self, name: str) -> int:
        """Samples at once, at most. KeyError: the side was not measured."""
        return int(self._sides[name]["peak_batch"])

    def add(self, name: str, measured: Measured, load: float) -> None:
        """Raises ContestFailed where the side drew other samples than the first one."""
        drawn = [_digest(sample) for sample in measured.samples]
        self._drawn = self._drawn or drawn
        different = [mine != first for mine, first in zip(drawn, self._drawn, strict=True)]
        self._check_parted(name, different)
        record = asdict(measured)
        del record["samples"]
        self._sides[name] = record | {"parted": sum(different), "load": load}

    def as_json(self, left_out: Sequence[str] = ()) -> dict[str, Any]:
        """The whole result.

        Args:
            left_out: Sides that were not measured, for want of time.
        """
        return {
            **self._settings,
            "left_out": list(left_out),
            "drawn": self._drawn,
            "sides": {name: self._sides[name] for name in SIDES if name in self._sides},
        }

    def _check_parted(self, name: str, different: Sequence[bool]) -> None:
        size = int(self._settings["samples"]) if self._is_greedy else 1
        draws = [any(different[i : i + size]) for i in range(0, len(different), size)]
        if sum(draws) > max(1, _MOST_PARTED * len(draws)):
            raise ContestFailed(
                f"{name} drew {sum(different)} of {len(different)} samples otherwise than the "
                "first side: no times are shown"
            )


def _digest(sample: Sequence[int]) -> str:
    return hashlib.sha256(repr(tuple(sample)).encode()).hexdigest()[:12]
