"""`treeserve keys`: makes, lists and revokes the API keys of a server."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from treeserve.errors import ConfigError
from treeserve.server.identity import Allowance, Permission
from treeserve.server.key_file import add_key, read_keys, read_time, revoke_key
from treeserve.server.keys import ApiKey, digest_of, new_secret

_DESCRIPTION = """\
API keys for `treeserve serve --api-keys FILE`, which notices changes by itself.

  treeserve keys new --file keys.jsonl --tenant acme --name ci     prints the key, once
  treeserve keys list --file keys.jsonl
  treeserve keys revoke --file keys.jsonl 1a2b3c4d

The file has one JSON object a line and holds no key, only digests. A tenant's keys share their
prefixes with each other and with nobody else.
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "keys", help="make, list and revoke API keys", description=_DESCRIPTION
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=type(parser)
    )
    _add_new(commands)
    _declare(commands, "list", "show what is in a file", _list)
    revoke = _declare(commands, "revoke", "disable a key for good", _revoke)
    revoke.add_argument("key_id", metavar="ID", help="the 8 hex digits after ts_ in the key")


def _add_new(commands: "argparse._SubParsersAction[Any]") -> None:
    parser = _declare(commands, "new", "make a key and print it, once", _new)
    add = parser.add_argument
    add("--tenant", required=True, help="whose prefixes its calls share")
    add("--name", default="", help="for people; it is in the request log")
    add(
        "--permissions", default=Permission.GENERATE.value, metavar="LIST",
        help=f"with commas, of {', '.join(Permission)}; default: %(default)s",
    )  # fmt: skip
    add("--max-requests", type=int, metavar="N", help="calls in flight; default: no limit")
    add(
        "--max-tokens", type=int, metavar="N",
        help="tokens in flight, prompts and n × max_tokens; default: no limit",
    )  # fmt: skip
    add("--requests-per-minute", type=int, metavar="N", help="default: no limit")
    add("--expires", metavar="TIME", help="such as 2027-01-31T12:00:00Z; default: never")


def _declare(
    commands: "argparse._SubParsersAction[Any]", name: str, text: str, run: Any
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("--file", type=Path, required=True, help="of the keys")
    return parser


def _new(args: argparse.Namespace) -> int:
    key_id, secret = new_secret()
    key = ApiKey(
        key_id=key_id,
        digest=digest_of(secret),
        tenant=args.tenant,
        name=args.name,
        permissions=_permissions(args.permissions),
        allowance=Allowance(args.max_requests, args.max_tokens, args.requests_per_minute),
        expires=None if args.expires is None else read_time(args.expires),
    )
    add_key(args.file, key)
    print(secret)
    print(f"key {key_id} of tenant {key.tenant}; it is not shown again", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    for key in read_keys(args.file):
        print("  ".join(_columns(key)))
    return 0


def _revoke(args: argparse.Namespace) -> int:
    key = revoke_key(args.file, args.key_id)
    print(f"revoked key {key.key_id} of tenant {key.tenant}", file=sys.stderr)
    return 0


def _permissions(text: str) -> frozenset[Permission]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in list(Permission):
            raise ConfigError(f"permissions: {name!r} is none; there are {', '.join(Permission)}")
    return frozenset(Permission(name) for name in names)


def _columns(key: ApiKey) -> list[str]:
    allowance = key.allowance
    limits = {
        "requests": allowance.max_requests,
        "tokens": allowance.max_tokens,
        "a minute": allowance.requests_per_minute,
    }
    shown = [f"{value} {what}" for what, value in limits.items() if value is not None]
    return [key.key_id, key.tenant, key.name or "-", _state(key), *sorted(key.permissions), *shown]


def _state(key: ApiKey) -> str:
    if key.disabled:
        return "revoked"
    if key.expires is None:
        return "valid"
    verb = "until" if key.is_valid(datetime.now(UTC)) else "expired"
    return f"{verb} {key.expires.isoformat()}"
