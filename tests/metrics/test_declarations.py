"""What is declared is what is exported, and the page says so."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from treeserve.metrics import Metrics
from treeserve.metrics.declarations import ALL
from treeserve.metrics.page import render_page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
BOUNDED = {"version", "model", "dtype", "device", "backend", "policy", "sharing"} | {
    "method", "code", "tenant", "source", "reason", "kind", "origin",
}  # fmt: skip


def test_a_fresh_server_exports_every_metric_that_is_declared_and_no_other():
    exported = text_string_to_metric_families(Metrics().render().decode())
    kinds = {family.name: family.type for family in exported}
    assert kinds == {
        declared.series if declared.kind == "info" else declared.family: (
            "gauge" if declared.kind == "info" else declared.kind
        )
        for declared in ALL
    }


@pytest.mark.parametrize("declared", ALL, ids=lambda declared: declared.series)
def test_declarations_follow_prometheus_conventions(declared):
    assert re.fullmatch(r"treeserve(_[a-z]+)*", declared.family)
    assert not declared.family.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    for unit in ("seconds", "bytes"):
        assert (declared.unit == unit) == declared.family.endswith(f"_{unit}")
    assert not re.search(r"_(ms|milliseconds|kb|mb|percent)(_|$)", declared.family)
    assert declared.text.endswith(".")
    assert declared.question.endswith((".", "?"))
    assert (declared.kind == "histogram") == bool(declared.buckets)
    assert list(declared.buckets) == sorted(set(declared.buckets))


@pytest.mark.parametrize("declared", ALL, ids=lambda declared: declared.series)
def test_labels_can_only_take_so_many_values(declared):
    """Never a prompt, a request's id or a user's name."""
    assert set(declared.labels) <= BOUNDED
    assert not declared.values or len(declared.labels) == 1


def test_no_two_metrics_have_one_name():
    assert len({declared.family for declared in ALL}) == len(ALL)


def test_the_page_lists_what_is_declared():
    """After a change: python -m treeserve.metrics.page > docs/metrics.md"""
    assert PAGE.read_text() == render_page()
