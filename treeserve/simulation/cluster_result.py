"""What a simulated cluster found: tokens computed, how even the load was, and the router's cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from treeserve.simulation.engine import Done
from treeserve.simulation.result import Distribution


@dataclass(slots=True)
class PromptTokens:
    """Of the prompts of some of the requests."""

    least: int = 0
    """That one replica would compute which holds everything."""
    computed: int = 0

    @property
    def excess(self) -> float:
        """Computed beyond the least, as a part of it."""
        return self.computed / self.least - 1 if self.least else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadWindow:
    """How even the load of all replicas was between two moments: the largest over the mean."""

    imbalance: float
    """Of work done: tokens that a replica computed, of prompts and drawn."""
    stream_imbalance: float
    """Of the samples that decoded at once, on the average over the time."""
    mean_streams: float
    """For each replica."""
    rows_per_second: float
    """Work of a replica, on the average."""

    @classmethod
    def between(cls, before: Sequence[Done], after: Sequence[Done], seconds: float) -> "LoadWindow":
        """Of as many replicas, in one order."""
        pairs = list(zip(before, after, strict=True))
        rows = [b.num_rows - a.num_rows for a, b in pairs]
        streams = [b.stream_seconds - a.stream_seconds for a, b in pairs]
        whole = seconds * len(pairs)
        return cls(
            imbalance=_imbalance(rows),
            stream_imbalance=_imbalance(streams),
            mean_streams=sum(streams) / whole if whole else 0.0,
            rows_per_second=sum(rows) / whole if whole else 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult:
    """One trace on one cluster; times are virtual seconds, but for those of decisions.

    Loads are compared until the last request has come that continues none, so that streams which
    nobody follows are left out. "Later" is from the middle of that time on: by then every replica
    holds what it was sent first.
    """

    num_replicas: int
    num_requests: int
    arrival_seconds: float
    makespan_seconds: float
    prompt_tokens: int
    computed_tokens: int
    """Of prompts."""
    least_tokens: int
    """That one replica would compute which holds everything from its first draw on."""
    later_computed_tokens: int
    """As computed_tokens, of the requests that came later alone."""
    later_least_tokens: int
    output_tokens: int
    load: LoadWindow
    later_load: LoadWindow
    time_to_first_token: Distribution
    time_per_output_token: Distribution
    decision_ms: Distribution
    """Real milliseconds of choosing a replica and noting it."""
    reasons: dict[str, int] = field(default_factory=dict)
    num_nodes: int = 0
    """Of the router's tree, at the end."""
    num_tree_tokens: int = 0

    @property
    def excess(self) -> float:
        """Prompt tokens computed beyond the least, as a part of it."""
        return PromptTokens(self.least_tokens, self.computed_tokens).excess

    @property
    def later_excess(self) -> float:
        """The same, of the requests that came later."""
        return PromptTokens(self.later_least_tokens, self.later_computed_tokens).excess


def _imbalance(loads: Sequence[float]) -> float:
    """The largest over the mean; 1 where there is no load at all."""
    total = sum(loads)
    return max(loads) * len(loads) / total if total else 1.0
