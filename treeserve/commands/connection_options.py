"""Options of the connection to a server that is asked: key, TLS and timeout."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.errors import ConfigError

if TYPE_CHECKING:
    from treeserve.client import Client

_OPTIONS = ("api_key_file", "tls_ca", "tls_cert", "tls_key", "timeout", "insecure")
_MAX_KEY_BYTES = 4096


def add_connection_options(
    parser: argparse.ArgumentParser,
    timed: str = "for everything",
    server: str | None = None,
    server_help: str = "ask a server; default: load a model",
) -> argparse._ArgumentGroup:
    """Declare --server and all that belongs to it.

    Args:
        timed: What --timeout limits.
        server: Asked where none is given.

    Returns:
        The group, for what else belongs there.
    """
    group = parser.add_argument_group("server")
    group.add_argument("--server", metavar="HOST:PORT", default=server, help=server_help)
    group.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="holds the key that says who calls; default: the variable TREESERVE_API_KEY, if set",
    )
    group.add_argument("--tls-ca", metavar="FILE", help="who may have signed its certificate")
    group.add_argument("--tls-cert", metavar="FILE", help="the client's own certificate")
    group.add_argument("--tls-key", metavar="FILE", help="the private key of --tls-cert")
    group.add_argument(
        "--timeout", type=float, metavar="SECONDS", help=f"{timed}; default: no limit"
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="send the key in plain text to another machine",
    )
    return group


def reject_without_server(args: argparse.Namespace) -> None:
    """Raises ConfigError for an option that says nothing where a model is loaded."""
    for name in _OPTIONS:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: needs --server")


def connect(args: argparse.Namespace) -> "Client":
    """A client as the options say.

    Raises:
        ConfigError: Names the option and what would be right.
    """
    from treeserve.client import Client

    return Client(args.server, **connection(args))


def connection(args: argparse.Namespace) -> dict[str, Any]:
    """How a client connects, by the names of its arguments.

    Raises:
        ConfigError: Names the option and what would be right.
    """
    from treeserve.client import Tls

    if args.timeout is not None and not 0 < args.timeout < float("inf"):
        raise ConfigError(f"--timeout: must be above 0, got {args.timeout}")
    files = (args.tls_ca, args.tls_cert, args.tls_key)
    return {
        "tls": None if files == (None, None, None) else Tls(*files),
        "api_key": None if args.api_key_file is None else read_key(args.api_key_file),
        "insecure": bool(args.insecure),
        "timeout_seconds": args.timeout,
    }


def read_key(file: str) -> str:
    """The key in a file; raises ConfigError where it holds something else."""
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--api-key-file: cannot read {file}: {error.strerror}") from None
    key = content.strip()
    if not key or len(content) > _MAX_KEY_BYTES or not key.isascii() or b"\n" in key:
        raise ConfigError(f"--api-key-file: {file} must hold one key, and nothing else")
    return key.decode()
