"""Prometheus' own tool accepts the configuration, and its unit tests of every alert pass."""

import subprocess

import pytest
import yaml
from deploy.expressions import DEPLOY, RULES, rules
from deploy.prometheus_process import needs_prometheus

PROMETHEUS = DEPLOY / "prometheus"


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_prometheus
@pytest.mark.parametrize(
    "path",
    [DEPLOY / "prometheus.yml", PROMETHEUS / "compose.yml", DEPLOY / "ray" / "prometheus.yml"],
    ids=str,
)
def test_promtool_takes_the_configuration(path):
    checked = promtool("check", "config", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rule files found" in checked.stdout


@needs_prometheus
def test_promtool_finds_nothing_to_complain_of_in_the_rules():
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_alerts_fire_when_they_should_and_not_when_it_is_close():
    tested = promtool("test", "rules", PROMETHEUS / "rule_tests.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    cases = yaml.safe_load((PROMETHEUS / "rule_tests.yml").read_text())["tests"]
    fires = {
        (test["alertname"], bool(test["exp_alerts"]))
        for case in cases
        for test in case.get("alert_rule_test", [])
    }
    alerts = {rule["alert"] for rule in rules(RULES[1])}
    assert fires == {(alert, outcome) for alert in alerts for outcome in (True, False)}
