"""The sandbox as the judge sees it: a command, files, stdin and limits in, how it ended out."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from treeserve.contest.sandbox import bubblewrap
from treeserve.contest.sandbox.bubblewrap import NoSandbox, SandboxFailed
from treeserve.contest.sandbox.limits import Limits, Ran
from treeserve.contest.sandbox.seccomp import seccomp_filter

_NOBODY = 65534
_END_SECONDS = 15.0
"""After which a process that has been asked to end is killed."""
_WORKER = Path(__file__).with_name("worker.py")
_PROBE = Limits(10.0, 20.0, processes=4)
_VERSION = "import sys; print('.'.join(map(str, sys.version_info[:3])))"


@dataclass(frozen=True)
class Confinement:
    """How programs are confined on this machine, found out by trying.

    Attributes:
        bwrap: Bubblewrap's command line; None runs programs bare, within limits only.
        python: The interpreter that samples get.
        description: For people and for the head of a verdict file.
    """

    bwrap: tuple[str, ...] | None
    python: str
    description: str


class Worker:
    """One process that runs one program at a time; for one thread, which must outlive it."""

    def __init__(self, bwrap: Sequence[str] | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # an interrupt ends it through the judge, not on its own
        )
        setup = {
            "bwrap": bwrap,
            "seccomp": _encoded(seccomp_filter() or b""),
            # Without privileges the sandbox is bubblewrap's user namespace; as root, the limit on
            # processes would not hold, and a way out would lead to root.
            "uid": _NOBODY if os.geteuid() == 0 and bwrap is not None else None,
        }
        self._sandboxed = bwrap is not None
        self._send(setup)

    def run(
        self, command: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits
    ) -> Ran:
        """Run a command to its end; nothing that it started is left.

        Raises SandboxFailed where the sandbox itself did not start, or the worker was stopped.
        """
        task = {
            "command": list(command),
            "files": {name: _encoded(data) for name, data in files.items()},
            "stdin": _encoded(stdin),
            "limits": asdict(limits),
        }
        self._send(task)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SandboxFailed("sandbox: the process that runs programs has ended")
        reply = json.loads(line)
        if "failure" in reply:
            failure = reply["failure"]
            raise SandboxFailed(
                bubblewrap.explain(failure)
                if self._sandboxed
                else f"programs cannot run: {failure}"
            )
        return Ran(**reply | {name: base64.b64decode(reply[name]) for name in ("stdout", "stderr")})

    def close(self) -> None:
        """End it with whatever it runs; any thread may."""
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def release(self) -> None:
        """Close its pipes, after `close`, from the thread that uses it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SandboxFailed("sandbox: the process that runs programs has ended") from None


class Workers:
    """The workers of several threads, so that all can be ended at once."""

    def __init__(self, confinement: Confinement) -> None:
        self._bwrap = confinement.bwrap
        self._lock = threading.Lock()
        self._alive: set[Worker] = set()
        self._closed = False

    def start(self) -> Worker:
        """A worker for the calling thread."""
        with self._lock:
            if self._closed:
                raise SandboxFailed("sandbox: judging was stopped")
            worker = Worker(self._bwrap)
            self._alive.add(worker)
            return worker

    def end(self, worker: Worker) -> None:
        """End one, from its thread."""
        with self._lock:
            self._alive.discard(worker)
        worker.close()
        worker.release()

    def end_all(self) -> None:
        """End all, at once; their threads get SandboxFailed."""
        with self._lock:
            self._closed = True
            alive = list(self._alive)
        for worker in alive:
            worker.close()


def find_confinement(sandboxed: bool = True) -> Confinement:
    """Try out how programs can be confined here.

    Raises NoSandbox, with what to do, where `sandboxed` and bubblewrap is missing or does not work.
    """
    if not sandboxed:
        return Confinement(None, sys.executable, "no sandbox")
    failure: Exception | None = None
    for python, folders in bubblewrap.python_prefixes():
        line = bubblewrap.command_line(folders)
        try:
            version = _try_python(line, str(python))
        except SandboxFailed as error:
            failure = error
            continue
        if version:
            described = f"{bubblewrap.bubblewrap_version()}, Python {version}"
            return Confinement(tuple(line), str(python), described)
    if failure is not None:
        raise NoSandbox(str(failure))
    raise NoSandbox(
        "sandbox: no Python runs inside: neither this one nor a python3 below /usr; install python3"
    )


def _try_python(line: list[str], python: str) -> str:
    """Its version, or "" where it does not run inside."""
    worker = Worker(line)
    try:
        ran = worker.run([python, "-I", "-S", "-c", _VERSION], {}, b"", _PROBE)
    finally:
        worker.close()
        worker.release()
    return ran.stdout.decode(errors="replace").strip() if ran.exit_code == 0 else ""


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
