"""Where a client connects and how: address, TLS, API key and the channel's options."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from treeserve.errors import ConfigError

KEY_VARIABLE = "TREESERVE_API_KEY"
MAX_MESSAGE_BYTES = 64 << 20
_MOST = (1 << 31) - 1
"""gRPC takes its options as int32."""


@dataclass(frozen=True, slots=True)
class Tls:
    """An encrypted connection; files are in PEM and read when the client is built.

    Attributes:
        ca: Of the authorities that may have signed the server's certificate. None: those that gRPC
            trusts.
        cert: The client's own certificate, where the server asks for one.
        key: Its private key.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel.

        Raises:
            ConfigError: Names the file and what is wrong.
        """
        if (self.cert is None) != (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise ConfigError(f"tls.{given}: needs tls.{missing} too")
        return grpc.ssl_channel_credentials(
            _read_pem("ca", self.ca, b"CERTIFICATE-----"),
            _read_pem("key", self.key, b"PRIVATE KEY-----"),
            _read_pem("cert", self.cert, b"CERTIFICATE-----"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server and how to speak to it, checked when it is built.

    Raises:
        ConfigError: Names the option and what would be right; never the key.
    """

    address: str
    tls: Tls | None = None
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    keepalive_seconds: float = 30.0
    max_message_bytes: int = MAX_MESSAGE_BYTES

    def __post_init__(self) -> None:
        is_local = _is_this_machine(self.address)
        if self.api_key is not None:
            _check_key(self.api_key)
            if self.tls is None and not is_local and not self.insecure:
                raise ConfigError(
                    f"api_key: would cross the network to {self.address} in the clear; "
                    "give tls, or insecure=True"
                )
        if not 1 <= self.keepalive_seconds <= 86_400:
            given = self.keepalive_seconds
            raise ConfigError(f"keepalive_seconds: must be between 1 and 86400, got {given}")
        if not 1 <= self.max_message_bytes <= _MOST:
            given = self.max_message_bytes
            raise ConfigError(f"max_message_bytes: must be between 1 and {_MOST}, got {given}")

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """That every call carries."""
        if self.api_key is None:
            return ()
        return (("authorization", f"Bearer {self.api_key}"),)

    def channel_options(self) -> list[tuple[str, Any]]:
        """The same for both kinds of channel."""
        return [
            ("grpc.keepalive_time_ms", round(self.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            # A server that restarts is tried again as fast as calls are, not after a second and
            # then ever less often; and what other clients have found out is not waited for.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.use_local_subchannel_pool", 1),
            # Calls are made again by rules that know what a call does.
            ("grpc.enable_retries", 0),
        ]


def key_from_environment() -> str | None:
    """The API key in TREESERVE_API_KEY; None where that is unset or empty."""
    return os.environ.get(KEY_VARIABLE) or None


def _check_key(key: str) -> None:
    if not key or not all("!" <= character <= "~" for character in key):
        raise ConfigError("api_key: must be visible ASCII characters, as treeserve keys printed it")


def _is_this_machine(address: str) -> bool:
    """Raises ConfigError where it is no address."""
    if address.startswith("unix:"):
        return True
    if "://" in address:
        return False  # A resolver's own syntax: it may be anything.
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ConfigError(f'address: must be "host:port", got {address!r}')
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"


def _read_pem(name: str, file: str | Path | None, mark: bytes) -> bytes | None:
    if file is None:
        return None
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{name}: cannot read {file}: {error.strerror}") from None
    if mark not in content:
        what = "private key" if name == "key" else "certificate"
        raise ConfigError(f"tls.{name}: {file} holds no {what} in PEM")
    return content
