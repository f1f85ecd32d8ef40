"""The records of an attention benchmark, in the form in which they become JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["timed", "wrong", "skipped"]
"""wrong: its values differ from the reference, so it shows no times."""

SHARED, PLAIN = "shared", "plain"
OURS = (SHARED, PLAIN)
TORCH = "torch_backend"
"""Our torch backend, with the shared plan; beside the cpu backend."""
BASELINES = ("sdpa", "flex", "flashinfer_decode", "flashinfer_cascade")
LOSS_THAT_COUNTS = 1.03
"""Times as long as the plain plan, and sharing has lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideResult:
    """One kernel on one tree."""

    status: Status
    reason: str = ""
    """Why it shows no times, or no time as a graph."""
    note: str = ""
    error: float | None = None
    """Largest difference from the reference, as a share of its largest value."""
    eager_seconds: float | None = None
    """Median, launching counted."""
    graph_seconds: float | None = None
    """Median of the device's own time; None on a CPU."""
    rounds: int = 0

    @property
    def seconds(self) -> float | None:
        """By which sides are compared."""
        return self.eager_seconds if self.graph_seconds is None else self.graph_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One tree under one shape of attention."""

    tree: str
    heads: str
    head_dim: int
    dtype: str
    rows: int
    distinct_tokens: int
    flat_tokens: int
    bound: float
    """What sharing can gain at most while memory is the limit."""
    floor_seconds: float
    floor_limited_by: str
    work_items: int
    shared_items: int
    plan_seconds: float
    """On the host, once a step, made anew."""
    carried_plan_seconds: float
    """The same while the same samples decode."""
    never_a_loss: str
    """Why sharing must not lose here more than 3%; empty: it is no such case."""
    sides: dict[str, SideResult]

    @property
    def is_wrong(self) -> bool:
        return any(self.sides[name].status == "wrong" for name in OURS)

    def ratio(self, side: str) -> float | None:
        """Times as long as the shared plan; None where either was not timed."""
        other = self.sides[side].seconds if side in self.sides else None
        own = self.sides[SHARED].seconds
        return None if other is None or own is None else other / own

    @property
    def share_of_floor(self) -> float | None:
        own = self.sides[SHARED].seconds
        return None if own is None else self.floor_seconds / own

    @property
    def flags(self) -> list[str]:
        """What a reader must not overlook."""
        found = []
        plain = self.ratio(PLAIN)
        if plain is not None and plain * LOSS_THAT_COUNTS < 1:
            same = "" if self.shared_items else "; nothing is shared, so the plans are the same"
            found.append(f"loss: sharing takes {1 / plain:.2f}x the plain plan's time{same}")
        share = self.share_of_floor
        if share is not None and share > 1:
            found.append(f"below the floor: {share:.2f} of it; the measured rates are too low")
        for name in (PLAIN, *BASELINES):
            ratio = self.ratio(name)
            if ratio is not None and ratio > self.bound:
                found.append(
                    f"above the bound: {name} takes {ratio:.2f}x, and sharing can gain "
                    f"{self.bound:.2f}x; a weak baseline, or a bug"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        ratios = {name: self.ratio(name) for name in (PLAIN, TORCH, *BASELINES)}
        return {
            **asdict(self),
            "share_of_floor": self.share_of_floor,
            "ratios": {name: ratio for name, ratio in ratios.items() if ratio is not None},
            "flags": self.flags,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueResult:
    """One value check."""

    case: str
    passed: bool
    error: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesResult:
    """The value checks over shapes and dtypes."""

    num_checked: int
    failed: tuple[ValueResult, ...]
    left_out: tuple[str, ...]
    """For want of time."""
