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
    load_weight: float = 0.02
    """What a token of open work beyond that costs at least, in tokens that would have to be
    computed again: a trunk of 2,000 tokens is worth waiting behind 100,000 tokens of work at 0.02.
    """
    eager_weight: float = 0.1
    """What it costs as long as there is credit for computing tokens again."""
    credit_fraction: float = 0.04
    """Every token that is computed gives so much credit: about the part of all work that is done
    twice for the sake of balance.
    """
    credit_tokens: float = 2048.0
    """Credit for each replica at the start, and at most."""
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
