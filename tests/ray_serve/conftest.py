"""One cluster of Ray for all tests of this folder; without Ray they skip."""

import os
import time
import warnings
from pathlib import Path

import pytest

OPTIONS = {"num_pages": 512, "calibration": "off", "dtype": "float32"}
ROOT = Path(__file__).parent.parent.parent
_running: dict[str, dict] = {}
"""The application of a cluster, by its address."""


@pytest.fixture(scope="session")
def ray_cluster():
    pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'treeserve[ray]'")
    from treeserve.ray.local_cluster import local_cluster

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with local_cluster() as cluster:
            yield cluster


@pytest.fixture(scope="session")
def of_tenants(tmp_path_factory):
    """The application of `tenants`, and the secrets of its keys."""
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    secrets = add_keys(path)
    application = {
        "num_replicas": 2,
        "engine": OPTIONS,
        "ingress": {"api_keys": str(path), "admin": True},
        "replica": {"prefix_folder": str(tmp_path_factory.mktemp("saved"))},
        "stats_seconds": 0.5,
    }
    return application, secrets


@pytest.fixture
def tenants(ray_cluster, of_tenants):
    """Two engines behind keys; by name the key of one who may do everything as the tenant red,
    and of two who may but generate."""
    application, secrets = of_tenants
    ensure(ray_cluster, application)
    return secrets


def ensure(cluster, application: dict) -> None:
    """The application runs, with all its engines: one that a test has killed has been replaced."""
    if _running.get(cluster.address) != application:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cluster.deploy(application)
        _running[cluster.address] = application
    while num_engines(cluster) < application.get("num_replicas", 1):
        time.sleep(0.1)


def num_engines(cluster) -> int:
    """That answer; 0 while one of them is dying."""
    try:
        return len(cluster.totals())
    except Exception:
        return 0


def add_keys(path) -> dict[str, str]:
    """Secrets by name, which is the tenant; "all" is red with every permission."""
    from treeserve.server.identity import Permission
    from treeserve.server.key_file import add_key
    from treeserve.server.keys import ApiKey, digest_of, new_secret

    secrets = {}
    for name in ("red", "blue", "all"):
        key_id, secrets[name] = new_secret()
        permissions = frozenset(Permission if name == "all" else {Permission.GENERATE})
        key = ApiKey(
            key_id=key_id,
            digest=digest_of(secrets[name]),
            tenant="red" if name == "all" else name,
            permissions=permissions,
        )
        add_key(path, key)
    return secrets
