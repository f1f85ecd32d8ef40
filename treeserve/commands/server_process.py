"""A server in a process of its own, for commands that want one while they run."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from treeserve.errors import TreeserveError

READY = re.compile(r"is ready: grpc (?P<grpc>\S+), http (?P<http>\S+), (?P<model>.*)")
_ANY_PORT = "127.0.0.1:0"


class ServerNotStarted(TreeserveError):
    """The server's process ended before it was ready; its own line on stderr says why."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where a server listens, what it serves in its own words, and its process."""

    grpc_address: str
    http_address: str
    model: str
    pid: int


@contextmanager
def running_server(engine_options: Mapping[str, object]) -> Iterator[RunningServer]:
    """Start a server on free ports, wait until it is ready, and drain it at the end.

    A SIGTERM to this process ends the server too.

    Args:
        engine_options: By the names of EngineOptions.
    """
    flags = [
        part
        for name, value in engine_options.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [sys.executable, "-m", "treeserve", "serve", *flags]
    addresses = ["--grpc-address", _ANY_PORT, "--http-address", _ANY_PORT]
    previous = signal.signal(signal.SIGTERM, _exit)
    try:
        with subprocess.Popen([*command, *addresses], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield _wait_until_ready(process)
            finally:
                process.terminate()
    finally:
        signal.signal(signal.SIGTERM, previous)


def _wait_until_ready(process: "subprocess.Popen[str]") -> RunningServer:
    assert process.stdout is not None
    for line in process.stdout:
        found = READY.search(line)
        if found is not None:
            return RunningServer(found["grpc"], found["http"], found["model"], process.pid)
    raise ServerNotStarted("the server did not start")


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
