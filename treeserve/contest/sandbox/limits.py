"""What a program may use while it runs, and what it used."""

from dataclasses import dataclass
from typing import Literal

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one run; time in seconds, sizes in bytes.

    Attributes:
        cpu_seconds: Processor time of all its processes together.
        wall_seconds: Time that passes from when it begins, whatever it does. What a sandbox takes
            to be set up does not count, nor a time in which the whole machine stands still.
        memory_bytes: Resident memory of all its processes; each one's address space is bounded by
            a little more.
        output_bytes: Of stdout, and of stderr.
        file_bytes: Of its private /tmp, and of any one file.
        processes: Processes and threads at once.
        open_files: Descriptors of one process.
        stack_bytes: Of the first thread; None leaves the system's.
    """

    cpu_seconds: float = 4.0
    wall_seconds: float = 14.0
    memory_bytes: int = 512 * MEBIBYTE
    output_bytes: int = 16 * MEBIBYTE
    file_bytes: int = 64 * MEBIBYTE
    processes: int = 16
    open_files: int = 64
    stack_bytes: int | None = None


Ending = Literal["exited", "time", "memory", "output", "processes"]


@dataclass(frozen=True)
class Ran:
    """How a run ended: by itself with `exit_code` (128 + n for signal n), or at which limit.

    `memory_bytes` is the largest resident set seen.
    """

    ending: Ending
    exit_code: int
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    stdout: bytes
    stderr: bytes
