"""What a stretch of work takes: time on the wall, and CPU time at both ends of the sockets."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds; CPU time is of all cores together."""

    wall: float
    client_cpu: float
    """Of this process."""
    server_cpu: float | None
    """None: nobody knows."""


class Stopwatch:
    """Runs from when it is made.

    Args:
        server_pid: The server's process. None: it is not ours.
    """

    def __init__(self, server_pid: int | None = None) -> None:
        self._server_pid = server_pid
        self._before = self._read()

    def taken(self) -> Taken:
        """So far."""
        before, now = self._before, self._read()
        server = None
        if now.server_cpu is not None and before.server_cpu is not None:
            server = now.server_cpu - before.server_cpu
        return Taken(now.wall - before.wall, now.client_cpu - before.client_cpu, server)

    def _read(self) -> Taken:
        return Taken(time.perf_counter(), time.process_time(), _cpu_seconds(self._server_pid))


def _cpu_seconds(pid: int | None) -> float | None:
    if pid is None:
        return None
    try:
        # The second field, a name in parentheses, may hold spaces; 14 and 15 are the times.
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
