"""The records of a decode benchmark, in the form in which they become JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from treeserve.bench.decode.sides import BATCHING, CEILING, OFF, ON, TRANSFORMERS

Status: TypeAlias = Literal["timed", "wrong", "failed", "skipped"]
"""wrong: sharing changed what was drawn. failed: it broke off. Neither shows times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRate:
    """One side's steady decoding: no prefill in it."""

    tokens_per_second: float
    """Median over the windows."""
    step_seconds: float
    windows: int
    kv_tokens_read: int = 0
    """A step and layer, at the last window's end; 0 of transformers, which reads all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCase:
    """One batch under one prefix."""

    batch: int
    prefix: int
    status: Status
    reason: str = ""
    own_tokens: int = 0
    """Of each sample behind the prefix, at the last window's end."""
    num_compared: int = 0
    """Tokens of sharing on and off that were found the same."""
    num_parted: int = 0
    """Samples that parted where rounding decides."""
    new_tokens: int = 0
    """That each sample drew while it was timed, at most."""
    sides: dict[str, SideRate] = field(default_factory=dict)
    floor_seconds: float | None = None
    """Of a step, in the middle of what was timed."""
    part_seconds: dict[str, float] = field(default_factory=dict)
    """Of a step with sharing on and clocks around its parts, by part. Empty on cuda."""
    without: dict[str, str] = field(default_factory=dict)
    """Why another program's side, if asked for, has no rate; by side."""
    weights_bytes: int | None = None
    """Each weight once."""
    pool_bytes: int | None = None
    """K and V of the pages that this case takes."""
    program_bytes: int | None = None
    """Of a process of its own, before it loads the model."""
    peak_bytes: int | None = None
    """Of that process, at most, while it decodes this case with sharing on."""
    without_memory: str = ""
    """Why the peak, if asked for, was not measured."""

    @property
    def tokens_per_second(self) -> float | None:
        """With sharing on."""
        return self._rate(ON)

    @property
    def shares(self) -> dict[str, float]:
        """Of a step's time, by part; they add up to 1."""
        step = sum(self.part_seconds.values())
        return {part: seconds / step for part, seconds in self.part_seconds.items()}

    @property
    def over_memory(self) -> float | None:
        """What the peak has above weights and pool, as a share of these."""
        if self.peak_bytes is None or self.weights_bytes is None or self.pool_bytes is None:
            return None
        return self.peak_bytes / (self.weights_bytes + self.pool_bytes) - 1

    @property
    def floor_tokens_per_second(self) -> float | None:
        return None if self.floor_seconds is None else self.batch / self.floor_seconds

    @property
    def share_of_floor(self) -> float | None:
        """Of the tokens per second that the floor allows."""
        if self.tokens_per_second is None or self.floor_tokens_per_second is None:
            return None
        return self.tokens_per_second / self.floor_tokens_per_second

    @property
    def bound(self) -> float:
        """What sharing can gain at most while memory is the limit."""
        flat = self.prefix + self.own_tokens
        return flat / (self.prefix / self.batch + self.own_tokens)

    @property
    def speedup(self) -> float | None:
        """Sharing on over off."""
        return self._ratio(ON, OFF)

    @property
    def share_of_ceiling(self) -> float | None:
        """Of the tokens per second that the model would have without any attention."""
        return self._ratio(ON, CEILING)

    @property
    def flags(self) -> list[str]:
        """What a reader must not overlook."""
        found = []
        if self.speedup is not None and self.speedup > self.bound:
            found.append(f"above the bound: {self.speedup:.2f}x, can be {self.bound:.2f}x at most")
        if self.speedup is not None and self.speedup * 1.03 < 1:
            found.append(f"loss: sharing takes {1 / self.speedup:.2f}x the time")
        if self.share_of_ceiling is not None and self.share_of_ceiling > 1:
            found.append(f"above the ceiling: {self.share_of_ceiling:.2f} of it")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "tokens_per_second": self.tokens_per_second,
            "transformers_tokens_per_second": self._rate(TRANSFORMERS),
            "transformers_batching_tokens_per_second": self._rate(BATCHING),
            "floor_tokens_per_second": self.floor_tokens_per_second,
            "share_of_floor": self.share_of_floor,
            "over_transformers": self._ratio(ON, TRANSFORMERS),
            "over_transformers_batching": self._ratio(ON, BATCHING),
            "shares": self.shares,
            "over_memory": self.over_memory,
            "bound": self.bound if self.sides else None,
            "speedup": self.speedup,
            "share_of_ceiling": self.share_of_ceiling,
            "flags": self.flags,
        }

    def _ratio(self, side: str, other: str) -> float | None:
        mine, others = self._rate(side), self._rate(other)
        return None if mine is None or others is None else mine / others

    def _rate(self, side: str) -> float | None:
        return self.sides[side].tokens_per_second if side in self.sides else None


def summarize(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a longer prefix costs at each batch, and the share of the ceiling.

    Args:
        cases: In their JSON form.
    """
    timed = [case for case in cases if case["sides"]]
    batches = sorted({case["batch"] for case in timed})
    by_batch = {batch: [case for case in timed if case["batch"] == batch] for batch in batches}
    shares = [share for case in timed if (share := case["share_of_ceiling"]) is not None]
    return {
        "num_cases": len(timed),
        "num_wrong": sum(case["status"] == "wrong" for case in cases),
        "num_failed": sum(case["status"] == "failed" for case in cases),
        "num_flagged": sum(bool(case["flags"]) for case in timed),
        "least_share_of_ceiling": min(shares, default=None),
        "throughput_change": [_change(own) for own in by_batch.values() if len(own) > 1],
    }


def _change(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """From the shortest to the longest prefix, of every side; -0.1 is a tenth less."""
    shortest = min(cases, key=lambda case: int(case["prefix"]))
    longest = max(cases, key=lambda case: int(case["prefix"]))
    return {
        "batch": shortest["batch"],
        "from_prefix": shortest["prefix"],
        "to_prefix": longest["prefix"],
        **{
            side: rate["tokens_per_second"] / shortest["sides"][side]["tokens_per_second"] - 1
            for side, rate in longest["sides"].items()
            if side in shortest["sides"]
        },
    }
