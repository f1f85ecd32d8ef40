"""Options of the router."""

from dataclasses import dataclass, fields

from treeserve.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """When a replica is overloaded, and what counts as holding a prefix.

    Work is counted in tokens of prompts that are computed.
    """

    calm_tokens: float = 0.0
    """Open work up to which a replica is never overloaded."""
    load_weight: float = 0.005
    """What a token of open work beyond that costs without credit, in tokens that would have to be
    computed again: 300 tokens of a conversation are worth waiting behind 60,000 tokens of work at
    0.005, and as `trunk_weight` says a trunk of 1,200 tokens too.
    """
    eager_weight: float = 0.1
    """What it costs with all the credit there can be; in between as much credit as there is."""
    credit_fraction: float = 0.03
    """Every token that is computed gives so much credit: about the part of all work that is done
    twice for the sake of balance.
    """
    credit_tokens: float = 1024.0
    """Credit for each replica, at most; at the start there is none."""
    fair_share: float = 1.1
    """Of a replica's open work over the mean of all: a trunk is wanted elsewhere while all that
    hold it have more. Half way between what is even and an imbalance of 1.2, which is to be found:
    the reference value of Page's test (1954).
    """
    copy_work: float = 6.0
    """A trunk is copied without credit when it was wanted elsewhere for long: when its requests
    have brought so much work for each of its tokens. Work counts by how far its holders are beyond
    their fair share, once where they have as much more as the mean is, and against it where they
    are below.
    """
    trunk_weight: float = 0.25
    """What a token of a trunk weighs against open work where it would have to be computed again: a
    copy of a trunk, from which many prompts go on, serves those that come later too. So much where
    a replica's part of all open requests goes on from it; the fewer do, the nearer to 1.
    """
    min_matched_tokens: int = 32
    """A prefix shorter than that draws no request to its holder."""
    drawn_weight: float = 2.0
    """Work of one drawn token."""
    max_age_seconds: float = 3600.0
    """What a replica was not sent to for so long is taken for evicted."""
    assumed_capacity_tokens: int = 1 << 20
    """Of a replica that has not said how much its pool holds."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ConfigError(
                    f"{field.name}: must be at least 0, got {getattr(self, field.name)}"
                )
        if self.assumed_capacity_tokens < 1:
            raise ConfigError(
                f"assumed_capacity_tokens: must be at least 1, got {self.assumed_capacity_tokens}"
            )
