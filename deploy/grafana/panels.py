"""The words that dashboards are written in: panels, boards and the queries of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

SELECTOR = 'job=~"$job",instance=~"$instance"'
TENANT = SELECTOR + ',tenant=~"$tenant"'
_RATE = "[$__rate_interval]"

Look: TypeAlias = Literal["lines", "stacked", "number", "heat"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: a question, and the queries that answer it, each with its legend."""

    title: str
    question: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    look: Look = "lines"
    span: int = 8


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard: rows of panels."""

    name: str
    title: str
    description: str
    rows: dict[str, Sequence[Panel]]
    variables: tuple[str, ...] = ("job", "instance")


def quantile(share: float, histogram: str, selector: str = SELECTOR, by: str = "") -> str:
    """A quantile over all the servers that are chosen."""
    labels = f"{by}, le" if by else "le"
    rate = f"rate(treeserve_{histogram}_bucket{{{selector}}}{_RATE})"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate}))"


def quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (quantile(share, histogram), f"p{round(100 * share)}") for share in (0.5, 0.9, 0.99)
    )


def total_rate(counter: str, by: str = "", more: str = "", selector: str = SELECTOR) -> str:
    """Of a counter, a second, over all the servers that are chosen."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate(treeserve_{counter}{{{selector}{more}}}{_RATE}))"


def ratio(part: str, whole: str) -> str:
    return f"{part} / {whole}"


def mean(histogram: str) -> str:
    return ratio(total_rate(f"{histogram}_sum"), total_rate(f"{histogram}_count"))


def gauge(name: str) -> str:
    return f"sum (treeserve_{name}{{{SELECTOR}}})"


def by_tenant(counter: str, more: str = "") -> str:
    return total_rate(counter, "tenant", more, TENANT)
