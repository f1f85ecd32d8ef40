"""The metrics of all engines and ingresses on one page, each with a label that says whose."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from treeserve.metrics.declarations import ALL, CALLS, CALLS_RUNNING

REPLICA = "replica"
"""The label: an id of Ray Serve's."""
_OF_CALLS = frozenset({"requests", "samples"})
_OF_INGRESS = _OF_CALLS | {"server"}
_COUNTED_BY_INGRESS = frozenset({CALLS.family, CALLS_RUNNING.family})
_SECTIONS = {declared.family: declared.section for declared in ALL}


def of_ingress(families: Iterable[Metric]) -> list[Metric]:
    """Those that an ingress knows: of calls, requests and samples."""
    return [family for family in families if _SECTIONS[family.name] in _OF_INGRESS]


def of_engine(families: Iterable[Metric]) -> list[Metric]:
    """Those that an engine knows: all but of calls, requests and samples."""
    return [
        family
        for family in families
        if _SECTIONS[family.name] not in _OF_CALLS and family.name not in _COUNTED_BY_INGRESS
    ]


def render_page(parts: Sequence[tuple[str, Iterable[Metric]]]) -> bytes:
    """All families in Prometheus' text format.

    Args:
        parts: (id of a replica, its families).
    """
    registry = CollectorRegistry()
    registry.register(_Joined(parts))
    return generate_latest(registry)


class _Joined(Collector):
    def __init__(self, parts: Sequence[tuple[str, Iterable[Metric]]]) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        joined: dict[str, Metric] = {}
        for replica_id, families in self._parts:
            for family in families:
                whole = joined.get(family.name)
                if whole is None:
                    whole = Metric(family.name, family.documentation, family.type)
                    joined[family.name] = whole
                whole.samples += [
                    sample._replace(labels={**sample.labels, REPLICA: replica_id})
                    for sample in family.samples
                ]
        yield from joined.values()
