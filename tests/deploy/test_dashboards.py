"""Dashboards, rules and alerts ask for metrics that are there, and are what their code makes."""

import itertools
import json
import subprocess
import sys

import pytest
from deploy.expressions import DASHBOARDS, DEPLOY, RULES, expressions, metrics_in, panels, rules

from treeserve.metrics.declarations import ALL

SERIES = {
    declared.series + suffix
    for declared in ALL
    for suffix in (("_bucket", "_sum", "_count") if declared.kind == "histogram" else ("",))
}
RECORDED = {rule["record"] for rule in rules(RULES[0])}


def test_the_committed_dashboards_are_what_their_code_makes():
    """After a change: python deploy/grafana"""
    command = [sys.executable, str(DEPLOY / "grafana"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout + checked.stderr


def test_the_check_sees_a_dashboard_that_somebody_changed_by_hand(tmp_path):
    folder = tmp_path / "grafana"
    folder.mkdir()
    for name in ("__main__.py", "boards.py", "panels.py"):
        (folder / name).write_text((DEPLOY / "grafana" / name).read_text())
    (folder / "dashboards").mkdir()
    run = [sys.executable, str(folder)]
    subprocess.run(run, check=True)
    changed = folder / "dashboards" / "memory.json"
    changed.write_text(changed.read_text().replace("Evicted", "Lost"))
    (folder / "dashboards" / "stray.json").write_text("{}")
    checked = subprocess.run([*run, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "memory.json" in checked.stdout
    assert "stray.json" in checked.stdout
    assert "overview.json" not in checked.stdout


@pytest.mark.parametrize("expression", expressions(), ids=lambda expression: expression.where)
def test_no_expression_asks_for_a_metric_that_is_not_there(expression):
    names = metrics_in(expression.text)
    assert names
    assert names <= SERIES | RECORDED | {"up"}


def test_every_metric_is_shown_somewhere():
    asked = set().union(*(metrics_in(expression.text) for expression in expressions()))
    unseen = {d.series for d in ALL if not any(n.startswith(d.series) for n in asked)}
    assert not unseen


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path):
    board = json.loads(path.read_text())
    assert board["uid"] == f"treeserve-{path.stem}"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert {"datasource", "job", "instance"} <= variables
    for panel in panels(path):
        assert panel["description"].endswith("?")
        assert panel["datasource"]["uid"] == "${datasource}"
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panels_overlap_or_stick_out(path):
    boxes = [panel["gridPos"] for panel in json.loads(path.read_text())["panels"]]
    for box in boxes:
        assert box["x"] >= 0
        assert box["x"] + box["w"] <= 24
    for one, other in itertools.combinations(boxes, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


def test_panels_have_ids_of_their_own():
    for path in DASHBOARDS:
        ids = [panel["id"] for panel in json.loads(path.read_text())["panels"]]
        assert len(set(ids)) == len(ids)


def test_every_alert_says_what_to_do_and_how_bad_it_is():
    for rule in rules(RULES[1]):
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
