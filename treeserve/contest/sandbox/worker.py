"""The process that starts sandboxes and watches them; started by file name, it imports nothing of
treeserve.

Its first line on stdin says how to sandbox (`bwrap`: the command line so far, or null; `seccomp`;
`uid`: whom to become). Each further line is a run, answered by one line. It stays small, so that
what it measures is the program's and not its own.
"""

import base64
import contextlib
import ctypes
import json
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

_TICK_SECONDS = 0.02
_MOST_TICK_SECONDS = 0.1
"""Of the program's time: while this process stood still for longer, so did the program."""
_SET_UP_SECONDS = 60.0
"""For bubblewrap, until the program begins; none of it is the program's."""
_MOST_ENDED = 10_000
"""Processes that are waited for at the end of a run, which nothing but a bomb can start."""
_CHUNK = 1 << 16
_SLACK_BYTES = 64 << 20
_DEATH_SIGNAL, _SUBREAPER = 1, 36
_HERTZ = os.sysconf("SC_CLK_TCK")
_PRLIMIT = "/usr/bin/prlimit"
_SETPRIV = "/usr/bin/setpriv"


def main() -> None:
    """Answer runs until stdin ends."""
    setup = json.loads(sys.stdin.readline())
    _become(setup["uid"])
    for line in sys.stdin:
        try:
            reply = Run(setup, json.loads(line)).go()
        except OSError as error:
            reply = {"failure": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


def _become(uid: int | None) -> None:
    """Become somebody who owns nothing, and end when the judge does."""
    libc = ctypes.CDLL(None)
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    signal.signal(signal.SIGTERM, _end_family)
    libc.prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Run:
    """One run: started, watched, ended with everything that it started."""

    def __init__(self, setup: dict[str, Any], task: dict[str, Any]) -> None:
        self._bwrap: list[str] | None = setup["bwrap"]
        self._seccomp = base64.b64decode(setup["seccomp"] or "")
        self._limits: dict[str, Any] = task["limits"]
        self._command: list[str] = task["command"]
        self._files = {name: base64.b64decode(data) for name, data in task["files"].items()}
        self._stdin = base64.b64decode(task["stdin"])
        self._fds: list[int] = []
        self._folder: str | None = None
        self._out, self._err = bytearray(), bytearray()
        self._ending = "exited"
        self._cpu, self._cpu_waited, self._memory = 0.0, 0.0, 0
        self._has_begun = self._bwrap is None
        self._passed = 0.0
        self._status_fd = -1

    def go(self) -> dict[str, Any]:
        """Run it to its end."""
        try:
            return self._run()
        finally:
            for fd in self._fds:
                os.close(fd)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> dict[str, Any]:
        out, out_end = self._pipe()
        err, err_end = self._pipe()
        stdin = self._memory_file(self._stdin)
        environment: dict[str, str] = {}  # bubblewrap gives one
        if self._bwrap is not None:
            command = self._sandboxed(self._limited())
        else:
            command, environment = self._bare(self._limited())
        actions = [
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, out_end, 1),
            (os.POSIX_SPAWN_DUP2, err_end, 2),
        ]
        started = time.monotonic()
        pid = os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsid=True, setsigdef=_SIGNALS
        )
        for fd in (out_end, err_end):
            self._close(fd)
        status = self._watch(pid, out, err)
        wall = time.monotonic() - started
        code = os.waitstatus_to_exitcode(status)
        if self._ending == "set-up":
            return {"failure": f"nothing runs in the sandbox after {_SET_UP_SECONDS:g} s"}
        if self._bwrap is not None and self._ending == "exited" and not self._was_executed():
            return {"failure": self._err.decode(errors="replace")[-500:] or f"status {code}"}
        return {
            "ending": self._ending,
            "exit_code": code if code >= 0 else 128 - code,
            "cpu_seconds": max(self._cpu, self._cpu_waited),
            "wall_seconds": wall,
            "memory_bytes": self._memory,
            "stdout": base64.b64encode(self._out).decode(),
            "stderr": base64.b64encode(self._err).decode(),
        }

    def _limited(self) -> list[str]:
        limits = self._limits
        flags = {
            "core": 0,
            "cpu": int(limits["cpu_seconds"]) + 2,
            "as": limits["memory_bytes"] + _SLACK_BYTES,
            "fsize": limits["file_bytes"],
            "nofile": limits["open_files"],
            "memlock": 0,
        }
        if self._bwrap is not None:  # elsewhere it would count what else this user runs
            flags["nproc"] = limits["processes"] + 2
        if limits["stack_bytes"] is not None:
            flags["stack"] = limits["stack_bytes"]
        return [_PRLIMIT, *(f"--{name}={value}" for name, value in flags.items()), *self._command]

    def _sandboxed(self, command: list[str]) -> list[str]:
        assert self._bwrap is not None
        self._status_fd, end = self._pipe()
        os.set_inheritable(end, True)
        line = [*self._bwrap, "--json-status-fd", str(end)]
        if self._seccomp:
            line += ["--seccomp", str(self._memory_file(self._seccomp, True))]
        for name, data in self._files.items():
            place = f"/box/{name}"
            line += ["--perms", "0555", "--ro-bind-data", str(self._memory_file(data, True)), place]
        size = str(self._limits["file_bytes"])
        line += ["--size", size, "--perms", "1777", "--tmpfs", "/tmp", "--chdir", "/tmp"]
        line += ["--remount-ro", "/dev", "--remount-ro", "/", "--"]
        return line + [part.replace("{box}", "/box") for part in command]

    def _bare(self, command: list[str]) -> tuple[list[str], dict[str, str]]:
        self._folder = tempfile.mkdtemp(prefix="treeserve-judge-")
        for name, data in self._files.items():
            place = os.path.join(self._folder, name)
            with open(place, "wb") as file:
                file.write(data)
            os.chmod(place, 0o555)
        parts = [part.replace("{box}", self._folder) for part in command]
        if os.path.exists(_SETPRIV):  # so that a judge that is killed takes the program with it
            parts = [_SETPRIV, "--pdeathsig", "KILL", "--", *parts]
        return parts, {"PATH": "/usr/bin:/bin", "TMPDIR": self._folder, "HOME": self._folder}

    def _watch(self, pid: int, out: int, err: int) -> int:
        ended = os.pidfd_open(pid)
        self._fds.append(ended)
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ, None)
            selector.register(out, selectors.EVENT_READ, self._out)
            selector.register(err, selectors.EVENT_READ, self._err)
            looked = time.monotonic()
            while self._ending == "exited":
                events = selector.select(_TICK_SECONDS)
                for key, _ in events:
                    if key.data is not None and not self._take(key.fd, key.data):
                        selector.unregister(key.fd)
                if any(key.fd == ended for key, _ in events):
                    break
                now = time.monotonic()
                if now - looked >= _TICK_SECONDS:
                    self._look(pid, min(now - looked, _MOST_TICK_SECONDS))
                    looked = now
        status = self._end(pid)
        for fd, into in ((out, self._out), (err, self._err)):  # nobody writes any more
            while self._ending == "exited" and self._take(fd, into):
                pass
        return status

    def _take(self, fd: int, into: bytearray) -> bool:
        """Read what is there; False at its end."""
        chunk = os.read(fd, _CHUNK)
        into += chunk
        if len(into) > self._limits["output_bytes"]:
            del into[self._limits["output_bytes"] :]
            self._ending = "output"
        return bool(chunk)

    def _look(self, pid: int, passed: float) -> None:
        """Compare what its processes use, and the time that has passed, with the limits."""
        cpu, memory, count = 0.0, 0, 0
        for process in _family(pid):
            used = _usage_of(process)
            if used is not None:
                cpu, memory, count = cpu + used[0], memory + used[1], count + used[2]
        self._cpu, self._memory = max(self._cpu, cpu), max(self._memory, memory)
        limits = self._limits
        self._passed += passed
        if not self._has_begun and _has_grandchild(pid):
            self._has_begun, self._passed = True, 0.0
        if not self._has_begun:
            if self._passed > _SET_UP_SECONDS:
                self._ending = "set-up"
        elif cpu > limits["cpu_seconds"] or self._passed > limits["wall_seconds"]:
            self._ending = "time"
        elif memory > limits["memory_bytes"]:
            self._ending = "memory"
        elif count > limits["processes"] + 3:  # beside two of bubblewrap and one that starts it
            self._ending = "processes"

    def _end(self, pid: int) -> int:
        """Kill whatever is left of it, wait until that is gone, add up what it used."""
        status = 0
        for _ in range(_MOST_ENDED):
            # Orphans come to this process, which is a subreaper: first bubblewrap's inner process,
            # whose end is the end of its whole namespace.
            family = _family(os.getpid()) if self._bwrap is None else _children(os.getpid())
            for process in family:
                if process != os.getpid():
                    _kill(process)
            try:
                reaped, ended_with, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            self._cpu_waited += usage.ru_utime + usage.ru_stime
            if reaped != pid or self._bwrap is None:
                # The first process carries the size of this one, which started it.
                self._memory = max(self._memory, usage.ru_maxrss << 10)
            status = ended_with if reaped == pid else status
        return status

    def _was_executed(self) -> bool:
        """Whether bubblewrap came as far as the command; else it failed to set up."""
        said = b""
        try:
            while chunk := os.read(self._status_fd, _CHUNK):
                said += chunk
        except BlockingIOError:
            pass
        return b'"exit-code"' in said

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._fds += ends
        os.set_blocking(ends[0], False)
        return ends

    def _close(self, fd: int) -> None:
        self._fds.remove(fd)
        os.close(fd)

    def _memory_file(self, data: bytes, inheritable: bool = False) -> int:
        fd = os.memfd_create("treeserve")
        self._fds.append(fd)
        os.set_inheritable(fd, inheritable)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


_SIGNALS = [signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ]


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for process in found:
        found += _children(process)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    except OSError:
        return found
    return found


def _has_grandchild(pid: int) -> bool:
    """Whether bubblewrap's inner process has a child: the program, once everything is set up."""
    return any(_children(process) for process in _children(pid))


def _usage_of(pid: int) -> tuple[float, int, int] | None:
    """Processor seconds (with children that ended), resident bytes, and threads of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open(f"/proc/{pid}/status", "rb") as file:
            status = dict(line.split(b":", 1) for line in file if b":" in line)
    except OSError:
        return None
    seconds = sum(map(int, fields[11:15])) / _HERTZ
    resident = sum(int(status.get(name, b"0").split()[0]) for name in (b"RssAnon", b"RssShmem"))
    return seconds, resident << 10, int(fields[17])


def _end_family(*_: object) -> None:
    """End, and before that all that descends from this process.

    Bubblewrap's inner process dies with the outer one, but not yet while it is being set up; as an
    orphan it comes to this process.
    """
    with contextlib.suppress(ChildProcessError):  # none is left
        for _ended in range(_MOST_ENDED):
            for process in _family(os.getpid())[1:]:
                _kill(process)
            os.wait()
    os._exit(128 + signal.SIGTERM)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
