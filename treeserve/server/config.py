"""Options of the server, checked when they are built."""

import ipaddress
import math
from dataclasses import dataclass, fields
from pathlib import Path

from treeserve.errors import ConfigError, TreeserveError

DEFAULT_GRPC_ADDRESS = "127.0.0.1:50051"
DEFAULT_HTTP_ADDRESS = "127.0.0.1:8000"
DEFAULT_ADMIN_ADDRESS = "127.0.0.1:50052"
DEFAULT_DRAIN_GRACE_SECONDS = 30.0
DEFAULT_STALL_SECONDS = 300.0
DEFAULT_MAX_BUFFERED_BYTES = 4 << 20
DEFAULT_MAX_MESSAGES_PER_SECOND = 500
MAX_REQUEST_BYTES = 16 << 20
_MOST = (1 << 31) - 1
"""gRPC takes its options as int32."""


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

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; a name other than localhost may be anything."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """All in PEM."""

    cert: Path
    """The server's certificate, and after it those that lead to the root."""
    key: Path
    client_ca: Path | None = None
    """gRPC clients must show a certificate that one of these has signed."""

    def paths(self) -> tuple[Path, ...]:
        return (self.cert, self.key, *([] if self.client_ca is None else [self.client_ca]))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Who may call, and what a stranger sees."""

    api_keys: Path | None = None
    """The file of API keys; None: no call needs one."""
    insecure: bool = False
    """Let other machines reach a server that asks nobody who it is."""
    reflection: bool = True
    """Describe the services to gRPC clients that ask."""
    open_metrics: bool = False
    """Show /metrics without a key."""
    reload_seconds: float = 2.0
    """How often keys and certificates are looked at; what has changed is read again."""

    def __post_init__(self) -> None:
        if not 0 < self.reload_seconds < math.inf:
            raise ConfigError(f"reload_seconds: must be above 0, got {self.reload_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """How much the server takes at once; what is beyond ends with RESOURCE_EXHAUSTED."""

    max_calls: int = 1024
    """Generation calls in flight."""
    max_waiting_requests: int = 8192
    """Prompts of which no token has been drawn yet."""
    max_waiting_tokens: int = 4 << 20
    """Tokens of those: of each prompt, and its n × max_tokens."""
    max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES
    """What a call has drawn and its reader has not taken, about; more cuts it off."""
    max_message_bytes: int = MAX_REQUEST_BYTES
    """Of one request."""
    max_streams_per_connection: int = 1024
    """Calls of one connection; more wait at the client."""
    max_connection_age_seconds: int | None = None
    """A connection takes no new calls then; running ones may end. None: no limit."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 1 <= value <= _MOST:
                raise ConfigError(
                    f"{field.name}: must be at least 1 and at most {_MOST}, got {value}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens, for whom, how much it takes at once, and how it ends."""

    grpc_address: Address
    """Port 0: any free one."""
    http_address: Address
    admin_address: Address | None = None
    """None: there is no AdminService."""
    drain_grace_seconds: float = DEFAULT_DRAIN_GRACE_SECONDS
    """How long running streams may go on after a drain has begun."""
    stall_seconds: float = DEFAULT_STALL_SECONDS
    """Work and no step for so long: the process is of no use any more."""
    tls: TlsFiles | None = None
    """None: both doors are plain text."""
    max_messages_per_second: int = DEFAULT_MAX_MESSAGES_PER_SECOND
    """About so many are sent, over all streams: beyond that a message carries what several steps
    drew, in a tenth of a second at most. Neither a call's first message is held back nor its last.
    """
    access: AccessConfig = AccessConfig()
    load: LoadConfig = LoadConfig()
    request_log: bool = False
    """One line for every call at its end."""
    log_prompts: bool = False
    """With the text of its prompts."""

    def __post_init__(self) -> None:
        if not 0 <= self.drain_grace_seconds < math.inf:
            raise ConfigError(
                f"drain_grace_seconds: must be at least 0, got {self.drain_grace_seconds}"
            )
        if not 0 < self.stall_seconds < math.inf:
            raise ConfigError(f"stall_seconds: must be above 0, got {self.stall_seconds}")
        if not 1 <= self.max_messages_per_second <= _MOST:
            raise ConfigError(
                f"max_messages_per_second: must be at least 1 and at most {_MOST}, "
                f"got {self.max_messages_per_second}"
            )
        if not self.asks_who_calls and not self.access.insecure:
            self._refuse_exposure()

    @property
    def by_certificate(self) -> bool:
        """Whether gRPC callers are known by their certificates."""
        return self.tls is not None and self.tls.client_ca is not None

    @property
    def asks_who_calls(self) -> bool:
        return self.access.api_keys is not None or self.by_certificate

    @property
    def shows_keys_in_the_clear(self) -> bool:
        """Whether keys cross a network unencrypted."""
        exposed = any(not address.is_loopback for _, address in self._addresses())
        return self.access.api_keys is not None and self.tls is None and exposed

    def _addresses(self) -> list[tuple[str, Address]]:
        """By the names of their options."""
        names = ("grpc_address", "http_address", "admin_address")
        given = ((name, getattr(self, name)) for name in names)
        return [(name, address) for name, address in given if address is not None]

    def _refuse_exposure(self) -> None:
        for name, address in self._addresses():
            if not address.is_loopback:
                raise ConfigError(
                    f"{name}: other machines may reach {address}, and nobody would be asked who "
                    "calls: give --api-keys or --tls-client-ca, or allow it with --insecure"
                )


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


def tls_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """Both files or neither.

    Raises:
        ConfigError: Names the one that is missing.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None:
        raise ConfigError("tls_cert: must be given too, a certificate in PEM")
    if key is None:
        raise ConfigError("tls_key: must be given too, the certificate's private key in PEM")
    return TlsFiles(cert, key, client_ca)
