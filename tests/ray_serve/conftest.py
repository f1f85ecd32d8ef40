"""One cluster of Ray for all tests of this folder; without Ray they skip."""

import os
import warnings
from pathlib import Path

import pytest

OPTIONS = {"num_pages": 512, "calibration": "off", "dtype": "float32"}
ROOT = Path(__file__).parent.parent.parent


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
def tenants(ray_cluster, tmp_path_factory):
    """Two engines behind keys; the address, and a key of each of two tenants."""
    from treeserve.server.key_file import add_key
    from treeserve.server.keys import ApiKey, digest_of, new_secret

    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    secrets = {}
    for tenant in ("red", "blue"):
        key_id, secrets[tenant] = new_secret()
        key = ApiKey(key_id=key_id, digest=digest_of(secrets[tenant]), tenant=tenant)
        add_key(path, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray_cluster.deploy(
            {
                "num_replicas": 2,
                "engine": OPTIONS,
                "ingress": {"api_keys": str(path)},
                "stats_seconds": 0.5,
            }
        )
    return secrets
