"""The manifests for endpoint pickers name what is there: metrics, options, ports and labels."""

import kubernetes_validate
import pytest
import yaml
from deploy.expressions import DEPLOY

from treeserve.commands.main import make_parser
from treeserve.metrics.declarations import ALL

FOLDER = DEPLOY / "endpoint-picker"
MANIFESTS = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yaml")}
DEPLOYMENT = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())
TEMPLATE = DEPLOYMENT["spec"]["template"]


def added(end_of_path: str) -> list:
    """What the patch adds at the paths that end so."""
    [patch] = MANIFESTS["kustomization"]["patches"]
    operations = yaml.safe_load(patch["patch"])
    assert {operation["op"] for operation in operations} == {"add"}
    found = [each["value"] for each in operations if each["path"].endswith(end_of_path)]
    assert found
    return found


@pytest.mark.parametrize("name", ["pickerconfig", "networkpolicy"])
def test_a_manifest_keeps_to_the_schema_of_its_kind(name):
    kubernetes_validate.validate(MANIFESTS[name], "1.37", strict=True)


def test_kustomize_is_told_of_every_manifest():
    listed = set(MANIFESTS["kustomization"]["resources"])
    assert listed == {"../kubernetes", *(f"{n}.yaml" for n in MANIFESTS if n != "kustomization")}


def test_the_metrics_that_the_picker_reads_are_gauges_of_the_server():
    config = yaml.safe_load(MANIFESTS["pickerconfig"]["data"]["config.yaml"])
    plugins = {plugin["type"]: plugin for plugin in config["plugins"]}
    [engine] = plugins["core-metrics-extractor"]["parameters"]["engineConfigs"]
    gauges = {declared.series for declared in ALL if declared.kind == "gauge"}
    read = {value for name, value in engine.items() if name.endswith("Spec")}
    assert len(read) == 3
    assert read <= gauges
    used = {each["pluginRef"] for each in config["schedulingProfiles"][0]["plugins"]}
    assert used <= set(plugins)
    assert added("engine-type") == [engine["name"]]


def test_the_patched_deployment_starts_with_its_arguments_and_the_ports_agree():
    container = TEMPLATE["spec"]["containers"][0]
    assert "env" not in container, "the patch would replace it"
    args = make_parser().parse_args([*container["args"], *added("args/-")])
    assert args.kv_events_topic == "kv@$(POD_IP)@embedded"
    [port] = added("ports/-")
    assert args.kv_events == f"tcp://*:{port['containerPort']}"
    [rule] = MANIFESTS["networkpolicy"]["spec"]["ingress"]
    metrics = next(p["containerPort"] for p in container["ports"] if p["name"] == "http")
    assert {p["port"] for p in rule["ports"]} == {port["containerPort"], metrics}
    pool = MANIFESTS["inferencepool"]["spec"]
    assert pool["targetPorts"] == [{"number": metrics}]
    assert pool["selector"]["matchLabels"] == TEMPLATE["metadata"]["labels"]
    assert [env["name"] for env in added("env")[0]] == ["POD_IP"]
