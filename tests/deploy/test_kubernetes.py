"""The Kubernetes manifests keep to their schemas and each other; their arguments start a server."""

import shutil
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from deploy.expressions import DEPLOY
from server.certificates import Authority

from treeserve.commands.server_process import READY
from treeserve.server.config import DEFAULT_STALL_SECONDS
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret

FOLDER = DEPLOY / "kubernetes"
MANIFESTS = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yaml")}
KNOWN = sorted(set(MANIFESTS) - {"kustomization", "servicemonitor"})
"""Of Kubernetes itself: the others are of the Prometheus operator and of kustomize."""


def container() -> dict:
    [only] = MANIFESTS["deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def pod() -> dict:
    return MANIFESTS["deployment"]["spec"]["template"]


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("name", KNOWN)
def test_a_manifest_keeps_to_the_schema_of_its_kind(name, version):
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_the_schema_check_can_fail():
    wrong = {**MANIFESTS["service"], "spec": {"ports": [{"port": "many"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_kustomize_is_told_of_every_manifest():
    listed = MANIFESTS["kustomization"]["resources"]
    assert sorted(listed) == sorted(f"{name}.yaml" for name in MANIFESTS if name != "kustomization")


def test_everything_selects_the_pods_of_the_deployment():
    labels = pod()["metadata"]["labels"]
    spec = {name: manifest.get("spec", {}) for name, manifest in MANIFESTS.items()}
    selected = [
        spec["deployment"]["selector"]["matchLabels"],
        spec["service"]["selector"],
        spec["networkpolicy"]["podSelector"]["matchLabels"],
        spec["poddisruptionbudget"]["selector"]["matchLabels"],
    ]
    assert all(labels == selector for selector in selected)
    service_labels = MANIFESTS["service"]["metadata"]["labels"]
    assert spec["servicemonitor"]["selector"]["matchLabels"] == service_labels


def test_ports_that_are_named_are_there():
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    service = MANIFESTS["service"]["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == ports
    [endpoint] = MANIFESTS["servicemonitor"]["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service}
    allowed = {
        port["port"]
        for rule in MANIFESTS["networkpolicy"]["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert allowed == set(ports.values())
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[name]["httpGet"]["port"] in ports


def test_the_job_is_the_one_that_alerts_ask_for():
    """`up{job="treeserve"}`."""
    label = MANIFESTS["servicemonitor"]["spec"]["jobLabel"]
    assert MANIFESTS["service"]["metadata"]["labels"][label] == "treeserve"


def test_a_pod_has_time_to_drain():
    args = dict(arg.split("=", 1) for arg in container()["args"] if "=" in arg)
    pre_stop = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = pod()["spec"]["terminationGracePeriodSeconds"]
    assert grace > pre_stop + float(args["--drain-grace"])


def test_a_long_step_does_not_get_a_pod_killed():
    """/healthz answers while the engine computes, and fails only after --stall-seconds."""
    probe = container()["livenessProbe"]
    assert probe["httpGet"]["path"] == "/healthz"
    assert probe["periodSeconds"] * probe["failureThreshold"] < DEFAULT_STALL_SECONDS


def test_the_container_writes_only_where_a_volume_is():
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    assert container()["securityContext"]["readOnlyRootFilesystem"]
    assert {v["name"] for v in pod()["spec"]["volumes"]} == set(mounts)
    written = {mount["mountPath"] for mount in mounts.values() if not mount.get("readOnly")}
    assert written == {"/var/cache/treeserve", "/tmp"}
    assert "TREESERVE_CACHE=/var/cache/treeserve" in (DEPLOY / "Containerfile").read_text()


def local_arguments(folder: Path) -> list[str]:
    """The container's, with its mounts in a folder, and on this machine alone."""
    arguments = [
        argument.replace("/etc/treeserve", str(folder)).replace("0.0.0.0:", "127.0.0.1:")
        for argument in container()["args"]
    ]
    return [a.replace(":50051", ":0").replace(":8000", ":0") for a in arguments]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_arguments_of_the_container_start_a_server_that_its_probes_find(tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "tls").mkdir()
    authority = Authority(tmp_path)
    pair = authority.sign("treeserve")
    shutil.copy(pair.cert, tmp_path / "tls" / "tls.crt")
    shutil.copy(pair.key, tmp_path / "tls" / "tls.key")
    key_id, secret = new_secret()
    key = ApiKey(key_id=key_id, digest=digest_of(secret), tenant="acme")
    add_key(tmp_path / "keys" / "keys.jsonl", key)
    command = [sys.executable, "-m", "treeserve", *local_arguments(tmp_path)]
    context = ssl.create_default_context(cafile=str(authority.cert))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            ready = next(filter(None, map(READY.search, process.stdout)))
            paths = {container()[p]["httpGet"]["path"] for p in ("readinessProbe", "livenessProbe")}
            [endpoint] = MANIFESTS["servicemonitor"]["spec"]["endpoints"]
            for path in paths | {endpoint["path"]}:
                url = f"https://{ready['http']}{path}"
                with urllib.request.urlopen(url, timeout=120, context=context) as reply:
                    assert reply.status == 200
        finally:
            process.terminate()
    assert process.returncode == 0
