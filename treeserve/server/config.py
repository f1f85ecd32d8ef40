"""Options of the server, checked when they are built."""

import math
from dataclasses import dataclass

from treeserve.errors import ConfigError, TreeserveError

DEFAULT_GRPC_ADDRESS = "127.0.0.1:50051"
DEFAULT_HTTP_ADDRESS = "127.0.0.1:8000"
DEFAULT_DRAIN_GRACE_SECONDS = 30.0
DEFAULT_MAX_CALLS = 1024
MAX_REQUEST_BYTES = 16 << 20


class BindError(TreeserveError):
    """An address at which the server cannot listen; says which and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens, how much it takes at once, and how it ends."""

    grpc_address: Address
    """Port 0: any free one."""
    http_address: Address
    drain_grace_seconds: float = DEFAULT_DRAIN_GRACE_SECONDS
    """How long running streams may go on after a drain has begun."""
    max_calls: int = DEFAULT_MAX_CALLS
    """Generation calls at once; more end with RESOURCE_EXHAUSTED."""

    def __post_init__(self) -> None:
        if not 0 <= self.drain_grace_seconds < math.inf:
            raise ConfigError(
                f"drain_grace_seconds: must be at least 0, got {self.drain_grace_seconds}"
            )
        if self.max_calls < 1:
            raise ConfigError(f"max_calls: must be at least 1, got {self.max_calls}")


def parse_address(name: str, text: str) -> Address:
    """Read "host:port"; IPv6 hosts stand in brackets.

    Raises:
        ConfigError: Names the option and what would be right.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not host or not is_port or (":" in host and not bracketed):
        raise ConfigError(f"{name}: must be HOST:PORT with a port from 0 to 65535, got {text!r}")
    return Address(host, int(port))
