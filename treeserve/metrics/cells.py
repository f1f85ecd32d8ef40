"""The numbers behind the metrics: plain Python, cheap to add to, made into text at a scrape."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from treeserve.metrics.declaration import Declaration

_Labels = tuple[str, ...]


class Number:
    """A counter or a gauge: one number for each combination of labels.

    Those that are known beforehand are there from the start, at 0.
    """

    __slots__ = ("_declaration", "_values")

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        known: Iterable[_Labels] = ((value,) for value in declaration.values)
        self._values: dict[_Labels, float] = dict.fromkeys(known if declaration.labels else [()], 0)

    def add(self, amount: float, labels: _Labels = ()) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def set(self, value: float) -> None:
        self._values[()] = value

    def family(self) -> Metric:
        declared = self._declaration
        kind = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
        family = kind(declared.family, declared.text, labels=declared.labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        return family


class Asked:
    """A gauge whose value somebody knows; 0 before anybody does."""

    __slots__ = ("_declaration", "ask")

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        self.ask: Callable[[], float] = lambda: 0.0

    def family(self) -> Metric:
        return GaugeMetricFamily(self._declaration.family, self._declaration.text, self.ask())


class Labels:
    """An info metric: nothing but labels; nothing at all before they are known."""

    __slots__ = ("_declaration", "_labels")

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        self._labels: Mapping[str, str] = {}

    def set(self, labels: Mapping[str, str]) -> None:
        assert set(labels) == set(self._declaration.labels), "other labels were declared"
        self._labels = labels

    def family(self) -> Metric:
        labels = self._labels
        family = InfoMetricFamily(self._declaration.family, self._declaration.text)
        if labels:
            family.add_metric([], dict(labels))
        return family


class Distribution:
    """A histogram: counts by bucket, and a sum, for each combination of labels."""

    __slots__ = ("_bounds", "_declaration", "_series")

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        self._bounds = declaration.buckets
        self._series: dict[_Labels, _Series] = {}
        if not declaration.labels:
            self._series[()] = _Series(len(self._bounds))

    def observe(self, value: float, labels: _Labels = ()) -> None:
        series = self._of(labels)
        series.counts[bisect_left(self._bounds, value)] += 1
        series.total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Several values, without labels."""
        series, bounds = self._of(()), self._bounds
        counts = series.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        series.total += sum(values)

    def add_counts(self, counts: Sequence[int]) -> None:
        """Values that are sorted into the buckets already; add_total() says what they add up to.

        Args:
            counts: [num_bins] how many are in each bucket, and not in the one before; what is
                beyond the last bucket belongs there too.
        """
        series = self._of(())
        last = len(self._bounds)
        for bucket, count in enumerate(counts):
            series.counts[min(bucket, last)] += count

    def add_total(self, total: float) -> None:
        self._of(()).total += total

    def family(self) -> Metric:
        declared = self._declaration
        family = HistogramMetricFamily(declared.family, declared.text, labels=declared.labels)
        for labels, series in self._series.items():
            family.add_metric(labels, list(self._buckets(series.counts)), series.total)
        return family

    def _of(self, labels: _Labels) -> "_Series":
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(len(self._bounds))
        return series

    def _buckets(self, counts: Sequence[int]) -> Iterator[tuple[str, float]]:
        num_below = 0
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            num_below += count
            yield "+Inf" if bound == float("inf") else str(bound), num_below


class _Series:
    __slots__ = ("counts", "total")

    def __init__(self, num_bounds: int) -> None:
        self.counts = [0] * (num_bounds + 1)
        self.total = 0.0
