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

_STATS_SECONDS = 1.0


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

    @property
    def key_file(self) -> Path | None:
        return None if self.api_keys is None else Path(self.api_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """The `args` of the application in a Serve config."""

    engine: Mapping[str, Any] = field(default_factory=dict)
    """Of treeserve.config.EngineOptions; `limits` are those of RequestLimits."""
    router: Mapping[str, Any] = field(default_factory=dict)
    """Of treeserve.cluster.config.RouterConfig."""
    ingress: Mapping[str, Any] = field(default_factory=dict)
    """Of IngressConfig."""
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
        engine_options(self.engine)
        router_config(self.router)
        ingress_config(self.ingress)
        for name in ("num_replicas", "num_ingresses"):
            _require_count(name, getattr(self, name))
        for name in ("gpus_per_replica", "cpus_per_replica"):
            value = getattr(self, name)
            if not _is_number(value) or not value >= 0:
                raise ConfigError(f"{name}: must be a number of at least 0, got {value!r}")
        if not _is_number(self.stats_seconds) or not self.stats_seconds > 0:
            raise ConfigError(f"stats_seconds: must be above 0, got {self.stats_seconds!r}")


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
            close = get_close_matches(str(name), names, 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
            raise ConfigError(f"{prefix}{name}: is not known; {hint}")
    return dict(options)


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: must be a whole number of at least 1, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
