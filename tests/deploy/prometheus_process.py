"""A real Prometheus, scraping a real server."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from deploy.expressions import DEPLOY

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs Prometheus: apt-get install prometheus, or make prometheus",
)
_DEADLINE_SECONDS = 120


@dataclass(frozen=True)
class Prometheus:
    """Answers queries over its HTTP API."""

    address: str

    def query(self, expression: str) -> list[dict]:
        """The samples of an instant query: labels and value each."""
        answer = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert answer["status"] == "success"
        assert answer["data"]["resultType"] == "vector"
        return answer["data"]["result"]

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(
            f"http://{self.address}{path}", timeout=_DEADLINE_SECONDS
        ) as reply:
            return json.loads(reply.read())

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=30) as reply:
                return reply.status == 200
        except OSError:
            return False


@contextmanager
def running_prometheus(folder: Path, port: int, target: str, key: str) -> Iterator[Prometheus]:
    """With deploy/prometheus.yml and its rules, but more often, of another target, and with a key.

    It listens on `port`. The key is given as docs/security.md says.
    """
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    key_file = folder / "scrape.key"
    key_file.write_text(key)
    config["scrape_configs"][0]["authorization"] = {"credentials_file": str(key_file)}
    config_file = folder / "prometheus.yml"
    config_file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={config_file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            prometheus, deadline = Prometheus(address), time.monotonic() + _DEADLINE_SECONDS
            while not prometheus.is_ready():
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
                time.sleep(0.05)
            yield prometheus
        finally:
            process.terminate()
            process.wait(_DEADLINE_SECONDS)
