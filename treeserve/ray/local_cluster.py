"""A cluster of Ray on this machine alone, with the application on it, for measuring and trying."""

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.config import gRPCOptions
from ray.serve.handle import DeploymentHandle

from treeserve.ray.app import SERVICERS, build_app

_APP = "treeserve"
_OBJECT_STORE_BYTES = 128 << 20
_SECONDS = 120.0


class LocalCluster:
    """Listens on the loopback; its applications come and go.

    Args:
        address: "host:port" of the gRPC proxy.
        http_address: "host:port" of the HTTP proxy, which has /metrics.
    """

    def __init__(self, address: str, http_address: str = "") -> None:
        self.address = address
        self.http_address = http_address

    def deploy(self, args: Mapping[str, Any]) -> None:
        """The application in place of what was there, ready when this returns."""
        serve.run(build_app(args), name=_APP, route_prefix="/")

    def remove(self) -> None:
        """The application, its engines with it."""
        serve.delete(_APP)

    def totals(self) -> dict[str, dict[str, int]]:
        """What `Replica.totals` says, by the id of the replica."""
        asking = self._engines().broadcast("totals")
        return dict(asking.results(timeout_s=_SECONDS))

    def home_of(self, namespace: str, request_id: str) -> str | None:
        """The replica that knows a request."""
        asking = self._engines().broadcast("knows", namespace, request_id)
        known = [name for name in asking.results(timeout_s=_SECONDS) if name is not None]
        return known[0] if known else None

    def kill(self, replica_id: str) -> None:
        """The process of an engine ends at once, as by a failing machine."""
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
        [name] = [name for name in names if name.endswith(f"{_APP}#Engine#{replica_id}")]
        ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)

    def _engines(self) -> DeploymentHandle:
        return serve.get_deployment_handle("Engine", _APP)


@contextmanager
def local_cluster(num_cpus: int = 4) -> Iterator[LocalCluster]:
    """Started, and ended with all its processes.

    Args:
        num_cpus: That Ray may hand out; the machine may have fewer.
    """
    # Another process of this machine must not reach it, and no token is left in the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    grpc_port, http_port = _free_port(), _free_port()
    ray.init(
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=_OBJECT_STORE_BYTES,
    )
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": http_port},
            grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=list(SERVICERS)),
            logging_config={"log_level": "ERROR"},
        )
        yield LocalCluster(f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}")
    finally:
        serve.shutdown()
        ray.shutdown()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
