"""The compose file and the container file name what is there, and arguments that are known."""

import re
from pathlib import Path

import pytest
import yaml
from deploy.expressions import DASHBOARDS, DEPLOY

from treeserve.commands.main import make_parser
from treeserve.commands.serve_options import server_config

ROOT = DEPLOY.parent
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())
SERVICES = COMPOSE["services"]
PROVISIONING = DEPLOY / "grafana" / "provisioning"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name):
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (DEPLOY / source).exists()


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone(name):
    """The server is started with --insecure: whoever reaches it may do everything."""
    for port in SERVICES[name]["ports"]:
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_images_are_pinned(name):
    assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"])


def test_the_server_takes_the_arguments_that_it_is_given():
    args = make_parser().parse_args(SERVICES["treeserve"]["command"])
    config = server_config(args)
    assert str(config.http_address) == "0.0.0.0:8000"
    grace = int(SERVICES["treeserve"]["stop_grace_period"].removesuffix("s"))
    assert grace > config.drain_grace_seconds


def test_prometheus_scrapes_the_servers_port():
    config = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["treeserve:8000"]}]
    assert job["job_name"] == "treeserve"
    for name in config["rule_files"]:
        assert (DEPLOY / "prometheus" / name).exists()


def test_grafana_finds_prometheus_and_the_dashboards():
    [source] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "treeserve.yml").read_text())[
        "providers"
    ]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.name in {path.name for path in DASHBOARDS}


def test_the_container_file_copies_what_is_there_and_nothing_that_is_ignored():
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    copied = {
        source
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
