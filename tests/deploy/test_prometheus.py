"""A real Prometheus scrapes a server under load, and every expression in deploy/ is asked of it."""

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from deploy.expressions import Expression, expressions
from deploy.prometheus_process import Prometheus, needs_prometheus, running_prometheus

from treeserve.client import Client
from treeserve.commands.server_process import running_server
from treeserve.errors import TreeserveError
from treeserve.module_prompt import ImportingPrompt
from treeserve.server.identity import Allowance, Permission
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret
from treeserve.types import PromptTree, SamplingParams

ROOT = Path(__file__).parents[2]
TRUNK = "Read n numbers and print the sum of those that are even. " * 8
SCHEMA = '<schema name="rules">Rules. <module name="sums">Sums of whole numbers.</module></schema>'
IMPORTING = '<prompt schema="rules" max_tokens="4"><sums/>Print </prompt>'
WAIT_SECONDS = 120

QUIET = {
    "alert": "an alert that compares is empty while all is well; its value is asked for beside it, "
    "and promtool's tests make it fire"
}
"""What may be empty, by the first word of where it stands, and why. Nothing else may."""


@dataclass
class Answer:
    expression: Expression
    values: list[float]

    @property
    def is_data(self) -> bool:
        return any(math.isfinite(value) for value in self.values)

    @property
    def may_be_empty(self) -> bool:
        return self.expression.where.split()[0] in QUIET


def ask(prometheus: Prometheus, expression: Expression) -> Answer:
    samples = prometheus.query(expression.query)
    return Answer(expression, [float(sample["value"][1]) for sample in samples])


@contextmanager
def load(address: str, keys: list[str]) -> Iterator[None]:
    """Two tenants' requests, good ones and bad ones, over and over until the body ends."""
    is_over = threading.Event()
    with ThreadPoolExecutor(len(keys)) as pool:
        workers = [pool.submit(_call_until, is_over, address, key) for key in keys]
        try:
            yield
        finally:
            is_over.set()
        for worker in workers:
            worker.result()


def _call_until(is_over: threading.Event, address: str, key: str) -> None:
    with Client(address, api_key=key, retries=None) as client:
        with suppress(TreeserveError):
            client.modules.put(SCHEMA)
        for number in itertools.count():
            if is_over.is_set():
                return
            params = SamplingParams(max_tokens=24, seed=number, ignore_eos=True)
            branches = tuple(PromptTree(f" {number} {i}", n=6, params=params) for i in range(2))
            _drain(client.generate_tree, PromptTree(TRUNK, branches=branches))
            _drain(client.generate, "x", SamplingParams(n=100_000))
            _drain(client.generate, ImportingPrompt(IMPORTING))
            _drain(client.generate, TRUNK, SamplingParams(n=2, max_tokens=8))


def _drain(call: Callable[..., Iterable[object]], *arguments: object) -> None:
    """To its end, whichever that is: some are refused, which is to be counted too."""
    with suppress(TreeserveError, ValueError):
        for _ in call(*arguments):
            pass


def write_answers(answers: list[Answer], folder: Path) -> None:
    """A line for each expression, with what Prometheus gave."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| where | expression | series | values |", "|---|---|---|---|"]
    for answer in answers:
        shown = ", ".join(f"{value:.6g}" for value in answer.values[:6]) or "(empty)"
        query = " ".join(answer.expression.query.split()).replace("|", "\\|")
        where = answer.expression.where.replace("|", "\\|")
        lines.append(f"| {where} | `{query}` | {len(answer.values)} | {shown} |")
    (folder / "prometheus-expressions.md").write_text("\n".join(lines) + "\n")


def new_key(key_file: Path, tenant: str, **more: object) -> str:
    key_id, secret = new_secret()
    add_key(key_file, ApiKey(key_id=key_id, digest=digest_of(secret), tenant=tenant, **more))
    return secret


def ask_until_there_is_data(prometheus: Prometheus) -> list[Answer]:
    """Every expression's last answer; ends early once all that may not be empty have data."""
    answers = {expression.where: Answer(expression, []) for expression in expressions()}
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        todo = [answer for answer in answers.values() if not answer.is_data]
        if all(answer.may_be_empty for answer in todo):
            break
        time.sleep(0.5)
        for answer in todo:
            answers[answer.expression.where] = ask(prometheus, answer.expression)
    return [_better(ask(prometheus, answer.expression), answer) for answer in answers.values()]


def wait_for_health(ask: Callable[[], list[dict]], health: str) -> list[dict]:
    """Once all are well, or at last: on a busy machine one scrape may take more than its second."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = ask()
        if all(each["health"] == health for each in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def targets(prometheus: Prometheus) -> list[dict]:
    """The one that is scraped."""
    [target] = prometheus.get("/api/v1/targets")["data"]["activeTargets"]
    return [target]


def loaded_rules(prometheus: Prometheus) -> list[dict]:
    """Of all groups."""
    groups = prometheus.get("/api/v1/rules")["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _better(last: Answer, earlier: Answer) -> Answer:
    return last if last.is_data else earlier


@needs_prometheus
@pytest.mark.slow
def test_every_panel_rule_and_alert_has_data_on_a_server_under_load(tmp_path, kept_port):
    """What it answered is in build/prometheus-expressions.md, or in $TREESERVE_ARTEFACTS."""
    key_file = tmp_path / "keys.jsonl"
    key_file.touch(mode=0o600)
    inspector = new_key(key_file, "ops", permissions=frozenset({Permission.INSPECT}))
    few = Allowance(max_tokens=400)
    may = frozenset({Permission.GENERATE, Permission.RETAIN})
    callers = [new_key(key_file, "acme", permissions=may), new_key(key_file, "zeta", allowance=few)]
    # Always shared: what pays on this machine is another matter, and nodes are to be counted.
    options = {"api_keys": key_file, "num_pages": 256, "max_running": 32, "sharing": "always"}
    with (
        running_server(options) as server,
        running_prometheus(tmp_path, kept_port, server.http_address, inspector) as prometheus,
        load(server.grpc_address, callers),
    ):
        answers = ask_until_there_is_data(prometheus)
        target = wait_for_health(lambda: targets(prometheus), "up")[0]
        rules = wait_for_health(lambda: loaded_rules(prometheus), "ok")
    write_answers(answers, Path(os.environ.get("TREESERVE_ARTEFACTS", ROOT / "build")))
    assert target["health"] == "up", target["lastError"]
    assert not [rule for rule in rules if rule["health"] != "ok"]
    assert not [a.expression for a in answers if not a.is_data and not a.may_be_empty]
