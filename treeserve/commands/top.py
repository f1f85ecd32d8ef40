"""`treeserve top`: what a server shares and what runs on it, in a terminal, again and again."""

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from treeserve.commands.connection_options import add_connection_options, connect
from treeserve.errors import ConfigError
from treeserve.server.config import DEFAULT_GRPC_ADDRESS

if TYPE_CHECKING:
    from rich.console import Console

    from treeserve.client import Client
    from treeserve.commands.top_screen import Screen, Seen

_DESCRIPTION = """\
Watch a server in the terminal: rates, the live tree, and the calls that run.

  treeserve top                                  the server on this machine
  treeserve top --server HOST:PORT --tls-ca ca.pem --api-key-file key.txt
  treeserve top --once                           one round, as text

Keys: q quits, p pauses. It needs a key that may "inspect", where keys are asked for; one that
may "admin" too sees everybody.
"""
_TIMEOUT_SECONDS = 10.0
_TRANSIENT = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "UNKNOWN"}
_MAX_NODES = 512


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "top", help="watch what a server shares", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS",
        help="between two rounds, from 0.2 to 60; default: %(default)g",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="one round, and end")
    add_connection_options(
        parser, server=DEFAULT_GRPC_ADDRESS, server_help="whom to ask; default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Show it until somebody quits."""
    from rich.console import Console

    from treeserve.commands.top_screen import Screen

    if not 0.2 <= args.interval <= 60:
        raise ConfigError(f"--interval: must be between 0.2 and 60, got {args.interval:g}")
    console, screen = Console(), Screen(args.server)
    with connect(args) as client:
        asking = _Asking(client, args.timeout or _TIMEOUT_SECONDS)
        screen.see(asking.ask())
        if args.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            console.print(screen.draw(console.width, 50), soft_wrap=True)
            return 0
        with _single_keys():
            _watch(console, screen, asking, args.interval)
    return 0


class _Asking:
    """Asks for everybody's nodes until it learns that it may not."""

    def __init__(self, client: "Client", timeout_seconds: float) -> None:
        self._client = client
        self._timeout = timeout_seconds
        self._is_all = True
        self._tells_activity = True

    def ask(self) -> "Seen":
        """Raises RemoteError."""
        from treeserve.client import RemoteError

        if self._is_all:
            try:
                return self._ask()
            except RemoteError as error:
                if error.code != "PERMISSION_DENIED":
                    raise
            self._is_all = False
        return self._ask()

    def _ask(self) -> "Seen":
        from treeserve.client import RemoteError
        from treeserve.commands.top_screen import Seen

        trees, given = self._client.trees, {"all_namespaces": self._is_all}
        view = trees.get(max_nodes=_MAX_NODES, timeout_seconds=self._timeout, **given)
        plan = trees.plan(timeout_seconds=self._timeout, **given)
        activity = None
        if self._tells_activity:
            try:
                activity = trees.activity(timeout_seconds=self._timeout, **given)
            except RemoteError as error:
                if error.code != "UNIMPLEMENTED":
                    raise
                self._tells_activity = False
        return Seen(view, plan, activity, self._is_all)


def _watch(console: "Console", screen: "Screen", asking: _Asking, interval: float) -> None:
    from rich.live import Live

    from treeserve.client import RemoteError

    is_paused = False
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            hint = "paused; p goes on, q quits" if is_paused else "p pauses, q quits"
            live.update(screen.draw(console.width, console.height, hint), refresh=True)
            key = _read_key(interval)
            if key == "q":
                return
            is_paused ^= key == "p"
            if is_paused or key:
                continue
            try:
                screen.see(asking.ask())
                screen.notice = ""
            except RemoteError as error:
                if error.code not in _TRANSIENT:
                    raise
                screen.notice = str(error)


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Keys are read as they are pressed, and not shown."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_key(timeout_seconds: float) -> str:
    """A key that is pressed within that time; else the empty text."""
    descriptor = sys.stdin.fileno()
    ready, _, _ = select.select([descriptor], [], [], timeout_seconds)
    if not ready:
        return ""
    # Where the terminal is gone there is nothing to read, for ever.
    return os.read(descriptor, 1).decode("latin-1") or "q"
