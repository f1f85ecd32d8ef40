"""Options of `treeserve serve` beside the engine's: doors, callers, limits, log."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from treeserve.config import RequestLimits
from treeserve.server.config import (
    DEFAULT_ADMIN_ADDRESS,
    DEFAULT_DRAIN_GRACE_SECONDS,
    DEFAULT_GRPC_ADDRESS,
    DEFAULT_HTTP_ADDRESS,
    DEFAULT_MAX_MESSAGES_PER_SECOND,
    DEFAULT_STALL_SECONDS,
    AccessConfig,
    LoadConfig,
    ServerConfig,
    parse_address,
    tls_files,
)

DEFAULT_MAX_DRAWN_TOKENS = 1 << 20

_Add = Callable[..., Any]

_LOAD = {
    "max_calls": ("N", "generation calls at once"),
    "max_waiting_requests": ("N", "prompts that wait for their first token, in all"),
    "max_waiting_tokens": ("TOKENS", "tokens of those, prompts and n × max_tokens"),
    "max_buffered_bytes": ("BYTES", "what a call has drawn and its reader has not taken, about"),
    "max_message_bytes": ("BYTES", "of one request"),
    "max_streams_per_connection": ("N", "calls of one connection; more wait at the client"),
    "max_connection_age_seconds": (
        "SECONDS", "after which a connection takes no new calls; default: no limit",
    ),
}  # fmt: skip
_LIMITS = {
    "max_prompt_tokens": ("TOKENS", "of each prompt; default: what the model takes"),
    "max_n": ("N", "samples of one prompt"),
    "max_drawn_tokens": ("TOKENS", "n × max_tokens, over all prompts of a call"),
    "max_tree_nodes": ("N", "nodes of one tree"),
    "max_tree_depth": ("N", "levels of branches beneath a trunk"),
    "max_stop_strings": ("N", "stop strings of one prompt"),
}


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    _add_doors(parser.add_argument_group("server").add_argument)
    _add_access(parser.add_argument_group("who may call").add_argument)
    load = parser.add_argument_group("limits", "more ends with RESOURCE_EXHAUSTED")
    _add_limits(load.add_argument, LoadConfig, _LOAD, {})
    request = parser.add_argument_group("limits of one call", "more ends with INVALID_ARGUMENT")
    changed = {"max_drawn_tokens": DEFAULT_MAX_DRAWN_TOKENS}
    _add_limits(request.add_argument, RequestLimits, _LIMITS, changed)
    _add_log(parser.add_argument_group("log").add_argument)


def server_config(args: argparse.Namespace) -> ServerConfig:
    """What was given.

    Raises:
        ConfigError: Names the option that is out of range or missing.
    """
    return ServerConfig(
        grpc_address=parse_address("grpc_address", args.grpc_address),
        http_address=parse_address("http_address", args.http_address),
        admin_address=args.admin_address and parse_address("admin_address", args.admin_address),
        drain_grace_seconds=args.drain_grace,
        stall_seconds=args.stall_seconds,
        max_messages_per_second=args.max_messages_per_second,
        tls=tls_files(args.tls_cert, args.tls_key, args.tls_client_ca),
        access=AccessConfig(
            api_keys=args.api_keys,
            insecure=args.insecure,
            reflection=args.reflection,
            open_metrics=args.open_metrics,
        ),
        load=LoadConfig(**{name: getattr(args, name) for name in _LOAD}),
        request_log=args.request_log,
        log_prompts=args.log_prompts,
    )


def request_limits(args: argparse.Namespace) -> RequestLimits:
    """What was given; raises as server_config()."""
    return RequestLimits(**{name: getattr(args, name) for name in _LIMITS})


def _add_doors(add: _Add) -> None:
    add(
        "--grpc-address", default=DEFAULT_GRPC_ADDRESS, metavar="HOST:PORT",
        help="default: %(default)s; port 0 is any free one",
    )  # fmt: skip
    add(
        "--http-address", default=DEFAULT_HTTP_ADDRESS, metavar="HOST:PORT",
        help="of OpenAI's API, the page, /metrics, /healthz and /readyz; default: %(default)s",
    )  # fmt: skip
    add(
        "--admin-address", nargs="?", const=DEFAULT_ADMIN_ADDRESS, metavar="HOST:PORT",
        help="serve AdminService there; without a value: %(const)s; default: off",
    )  # fmt: skip
    add(
        "--drain-grace", type=float, default=DEFAULT_DRAIN_GRACE_SECONDS, metavar="SECONDS",
        help="how long running streams may go on after a signal; default: %(default)g",
    )  # fmt: skip
    add(
        "--stall-seconds", type=float, default=DEFAULT_STALL_SECONDS, metavar="SECONDS",
        help="/healthz fails when the engine has work and makes no step for so long; "
        "default: %(default)g",
    )  # fmt: skip
    add(
        "--max-messages-per-second", type=int, default=DEFAULT_MAX_MESSAGES_PER_SECOND, metavar="N",
        help="to all readers, about; beyond it a message carries what several steps drew, in 0.1 s "
        "at most; default: %(default)s",
    )  # fmt: skip


def _add_access(add: _Add) -> None:
    add("--tls-cert", type=Path, metavar="FILE", help="the server's certificate, in PEM")
    add("--tls-key", type=Path, metavar="FILE", help="its private key, in PEM")
    add(
        "--tls-client-ca", type=Path, metavar="FILE",
        help="gRPC clients must show a certificate that one of these has signed; without "
        "--api-keys its common name is the tenant",
    )  # fmt: skip
    add(
        "--api-keys", type=Path, metavar="FILE",
        help="calls need one of these keys; `treeserve keys` makes them",
    )  # fmt: skip
    add(
        "--insecure", action="store_true",
        help="let other machines reach a server that asks nobody who calls",
    )  # fmt: skip
    add(
        "--no-reflection", dest="reflection", action="store_false",
        help="do not describe the services to gRPC clients that ask",
    )  # fmt: skip
    add("--open-metrics", action="store_true", help="show /metrics without a key")


def _add_limits(
    add: _Add, section: type, options: dict[str, tuple[str, str]], changed: dict[str, int]
) -> None:
    defaults = {field.name: field.default for field in fields(section)} | changed
    for name, (metavar, text) in options.items():
        default = defaults[name]
        ending = "" if default is None else "; default: %(default)s"
        option = f"--{name.replace('_', '-')}".removesuffix("-seconds")
        add(option, dest=name, type=int, default=default, metavar=metavar, help=f"{text}{ending}")


def _add_log(add: _Add) -> None:
    add(
        "--log-level", default="warning", choices=("debug", "info", "warning", "error"),
        help="of the log on stderr; default: %(default)s",
    )  # fmt: skip
    add(
        "--log-format", default="text", choices=("text", "json"),
        help="of the log on stderr; default: %(default)s",
    )  # fmt: skip
    add("--request-log", action="store_true", help="write a line for every call at its end")
    add(
        "--log-prompts", action="store_true",
        help="with the text of its prompts, which else is in no log",
    )  # fmt: skip
