"""The application that a Serve config names: engines behind their router, and the ingress."""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from treeserve.ray.config import AppConfig, app_config
from treeserve.ray.ingress import Ingress
from treeserve.ray.peers import INGRESS
from treeserve.ray.replica import Replica

SERVICERS = tuple(
    f"treeserve.ray.proxy_services.add_{name}_service"
    for name in ("generation", "tree", "prefix", "module", "admin")
)
"""For `grpc_options.grpc_servicer_functions` of a Serve config."""

_MAX_ONGOING = 4096
"""Calls of one replica: its scheduler decides who waits, not Ray's queue."""


def build_app(args: Mapping[str, Any]) -> Application:
    """What `import_path: treeserve.ray.app:build_app` builds of `args`, those of AppConfig.

    Raises:
        ConfigError: An option is unknown or out of range; names it.
    """
    config = app_config(args)
    engines = _engines(config).bind(dict(config.engine), dict(config.replica))
    ingress = serve.deployment(
        Ingress,
        name=INGRESS,
        num_replicas=config.num_ingresses,
        max_ongoing_requests=_MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(engines, dict(config.engine), dict(config.ingress), dict(config.replica))


def _engines(config: AppConfig) -> serve.Deployment:
    router = RequestRouterConfig(
        request_router_class=config.router_class,
        request_router_kwargs=dict(config.router),
        request_routing_stats_period_s=config.stats_seconds,
    )
    return serve.deployment(
        Replica,
        name="Engine",
        num_replicas=config.num_replicas,
        max_ongoing_requests=_MAX_ONGOING,
        request_router_config=router,
        health_check_period_s=5,
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
        },
    )
