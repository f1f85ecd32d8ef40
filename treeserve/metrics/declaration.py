"""The declaration of one metric."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram", "info"]
Section: TypeAlias = Literal[
    "server", "requests", "samples", "steps", "sharing", "memory", "scheduling"
]

_NAMESPACE = "treeserve"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric: all that is said of it anywhere."""

    section: Section
    kind: Kind
    name: str
    """Without the namespace, and without the suffix that its kind adds."""
    unit: str
    """Of its values: a base unit, or a word of the design where they are counted."""
    text: str
    """What it is, as Prometheus' help shows it."""
    question: str
    """That somebody who looks at it wants answered."""
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    """All that its one label can be; empty where it has none or several, or it is a tenant."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    @property
    def family(self) -> str:
        """As Prometheus' text names it: of a counter without `_total`."""
        return f"{_NAMESPACE}_{self.name}" if self.name else _NAMESPACE

    @property
    def series(self) -> str:
        """As queries name it; of a histogram without `_bucket`, `_sum` and `_count`."""
        return self.family + {"counter": "_total", "info": "_info"}.get(self.kind, "")
