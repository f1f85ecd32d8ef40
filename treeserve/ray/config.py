"""Options of an application on Ray Serve, checked before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from treeserve.cluster.config import RouterConfig
from treeserve.config import EngineOptions, RequestLimits
from treeserve.errors import ConfigError
from treeserve.prefixes.folder import DEFAULT_MAX_BYTES, PrefixFolder

_STATS_SECONDS = 1.0
_NO_TLS = "Ray's gRPC proxy speaks no TLS; put a proxy that does in front of it (docs/cluster.md)"
_NOT_HERE = {
    "ingress.tls_cert": _NO_TLS,
    "ingress.tls_key": _NO_TLS,
    "ingress.tls_client_ca": _NO_TLS,
    "ingress.grpc_address": "Ray's proxy listens: grpc_options.port of the Serve config",
    "ingress.http_address": "Ray's proxy listens: http_options of the Serve config",
    "ingress.admin_address": "it is the address of all services here; say admin: true",
    "replicas": "is not known; did you mean num_replicas?",
    "tensor_parallel": "is an option of the engine: engine.tensor_parallel",
}
"""Options of one process that mean something else here, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressConfig:
    """Who may call, and how much an ingress takes at once."""

    api_keys: str | None = None
    """The file of keys, on every node that runs an ingress. None: nobody is asked for one."""
    max_calls: int = 1024
    max_waiting_requests: int = 8192
    max_waiting_tokens: int = 4 << 20
    request_log: bool = False
    """One line for every call at its end."""
    admin: bool = False
    """Offer AdminService, on the same address as the other services."""
    drain_grace_seconds: float = 30.0
    """How long running streams may go on after a drain has begun."""

    def __post_init__(self) -> None:
        for name in ("max_calls", "max_waiting_requests", "max_waiting_tokens"):
            _require_count(f"ingress.{name}", getattr(self, name))
        if self.admin and self.api_keys is None:
            raise ConfigError(
                "ingress.admin: needs ingress.api_keys: Ray's proxy listens on all addresses, and "
                "without keys anybody could drain the application"
            )

    @property
    def key_file(self) -> Path | None:
        return None if self.api_keys is None else Path(self.api_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """What one engine takes at once, and what it offers beside generation."""

    max_waiting_requests: int = 8192
    """Prompts of which no token has been drawn yet; a call beyond goes to another engine."""
    max_waiting_tokens: int = 4 << 20
    """Tokens of those: of each prompt, and its n × max_tokens."""
    show_text: bool = False
    """Let TreeService show the token ids of what is cached, which is what clients wrote."""
    prefix_folder: str | None = None
    """Where PrefixService saves prefixes: a folder that all nodes share. None: nowhere."""
    prefix_folder_bytes: int = DEFAULT_MAX_BYTES
    """Of all saved prefixes together, at most."""

    def __post_init__(self) -> None:
        for name in ("max_waiting_requests", "max_waiting_tokens", "prefix_folder_bytes"):
            _require_count(f"replica.{name}", getattr(self, name))

    def open_folder(self) -> PrefixFolder | None:
        """Raises ConfigError where it cannot be used."""
        if self.prefix_folder is None:
            return None
        return PrefixFolder(Path(self.prefix_folder), self.prefix_folder_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """The `args` of the application in a Serve config."""

    engine: Mapping[str, Any] = field(default_factory=dict)
    """Of treeserve.config.EngineOptions; `limits` are those of RequestLimits."""
    router: Mapping[str, Any] = field(default_factory=dict)
    """Of treeserve.cluster.config.RouterConfig."""
    ingress: Mapping[str, Any] = field(default_factory=dict)
    """Of IngressConfig."""
    replica: Mapping[str, Any] = field(default_factory=dict)
    """Of ReplicaConfig."""
    num_replicas: int = 1
    """Engines, each with its own tree."""
    num_ingresses: int = 1
    gpus_per_replica: float = 0
    cpus_per_replica: float = 1
    stats_seconds: float = _STATS_SECONDS
    """How often a replica says what it holds."""
    router_class: str = "treeserve.ray.request_router.PrefixRouter"
    """For comparison: another RequestRouter, by its path."""

    def __post_init__(self) -> None:
        num_ranks = engine_options(self.engine).tensor_parallel
        _require_count("engine.tensor_parallel", num_ranks)
        router_config(self.router)
        ingress_config(self.ingress)
        replica = replica_config(self.replica)
        for name in ("num_replicas", "num_ingresses"):
            _require_count(name, getattr(self, name))
        for name in ("gpus_per_replica", "cpus_per_replica"):
            value = getattr(self, name)
            if not _is_number(value) or not value >= 0:
                raise ConfigError(f"{name}: must be a number of at least 0, got {value!r}")
        if not _is_number(self.stats_seconds) or not self.stats_seconds > 0:
            raise ConfigError(f"stats_seconds: must be above 0, got {self.stats_seconds!r}")
        if 0 < self.gpus_per_replica < num_ranks:
            raise ConfigError(
                f"gpus_per_replica: must be {num_ranks}, one for each rank of "
                f"engine.tensor_parallel, got {self.gpus_per_replica!r}"
            )
        if num_ranks > 1 and replica.prefix_folder is not None:
            raise ConfigError(
                "replica.prefix_folder: not with engine.tensor_parallel: no process has the KV of "
                "all heads"
            )


def app_config(args: Mapping[str, Any]) -> AppConfig:
    """Of a Serve config's `args`.

    Raises:
        ConfigError: An option is unknown or out of range; names it.
    """
    return AppConfig(**_known(AppConfig, args, ""))


def engine_options(options: Mapping[str, Any]) -> EngineOptions:
    """By name; raises as app_config()."""
    given = _known(EngineOptions, options, "engine.")
    limits = given.pop("limits", {})
    return EngineOptions(**given, limits=RequestLimits(**_known(RequestLimits, limits, "limits.")))


def router_config(options: Mapping[str, Any]) -> RouterConfig:
    """By name; raises as app_config()."""
    return RouterConfig(**_known(RouterConfig, options, "router."))


def ingress_config(options: Mapping[str, Any]) -> IngressConfig:
    """By name; raises as app_config()."""
    return IngressConfig(**_known(IngressConfig, options, "ingress."))


def replica_config(options: Mapping[str, Any]) -> ReplicaConfig:
    """By name; raises as app_config()."""
    return ReplicaConfig(**_known(ReplicaConfig, options, "replica."))


def installed_version() -> str:
    """Of treeserve, or "unknown" in a checkout that is not installed."""
    try:
        return version("treeserve")
    except PackageNotFoundError:
        return "unknown"


def _known(kind: type, options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'args'}: must be a mapping, got {options!r}")
    names = [entry.name for entry in fields(kind)]
    for name in options:
        if name not in names:
            if f"{prefix}{name}" in _NOT_HERE:
                raise ConfigError(f"{prefix}{name}: {_NOT_HERE[f'{prefix}{name}']}")
            close = get_close_matches(str(name), names, 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
            raise ConfigError(f"{prefix}{name}: is not known; {hint}")
    return dict(options)


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: must be a whole number of at least 1, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
