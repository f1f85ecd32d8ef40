"""Every PromQL expression of deploy/: of panels, recording rules and alerts."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = [DEPLOY / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
_VARIABLES = {"$job": "treeserve", "$instance": ".*", "$tenant": ".*", "$__rate_interval": "1m"}
_THRESHOLD = re.compile(r"(?P<value>.*\S) (?P<comparison>==|>|<) (?P<threshold>[\d.]+)", re.DOTALL)


@dataclass(frozen=True)
class Expression:
    """Where it stands, and what is asked there."""

    where: str
    text: str

    @property
    def query(self) -> str:
        """As Prometheus takes it, with variables as Grafana would put them in."""
        query = self.text
        for name, value in _VARIABLES.items():
            query = query.replace(name, value)
        return query


def panels(path: Path) -> list[dict]:
    """Those with queries, in their order."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def rules(path: Path) -> list[dict]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[Expression]:
    """All of them; of an alert as it stands, and what it compares with its threshold."""
    return list(_expressions())


def _expressions() -> Iterator[Expression]:
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                where = f"{path.stem} / {panel['title']} / {target['legendFormat']}"
                yield Expression(where, target["expr"])
    for rule in rules(RULES[0]):
        yield Expression(f"rule {rule['record']}", rule["expr"])
        yield Expression(f"recorded {rule['record']}", rule["record"])
    for rule in rules(RULES[1]):
        yield Expression(f"value of {rule['alert']}", value_of(rule["expr"]))
        yield Expression(f"alert {rule['alert']}", rule["expr"])


def value_of(alert: str) -> str:
    """What an alert compares with its threshold."""
    found = _THRESHOLD.fullmatch(alert.strip())
    assert found is not None, f"not a value, a comparison and a threshold: {alert}"
    return found["value"]


def metrics_in(expression: str) -> set[str]:
    """Names of metrics, and of what rules record."""
    return set(re.findall(r"\b(?:treeserve[_:][a-z0-9_:]+|up)\b", expression))
