"""The system calls that a sandboxed program is refused, as a filter for bubblewrap."""

import platform
import struct

_REFUSED: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "shmget": 29, "socket": 41, "ptrace": 101, "msgget": 68, "semget": 64, "mount": 165,
            "umount2": 166, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
            "perf_event_open": 298, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "memfd_create": 319, "bpf": 321, "userfaultfd": 323,
            "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
            "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "pidfd_getfd": 438,
            "memfd_secret": 447,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "umount2": 39, "mount": 40, "unshare": 97, "ptrace": 117, "msgget": 186, "semget": 190,
            "shmget": 194, "socket": 198, "add_key": 217, "request_key": 218, "keyctl": 219,
            "perf_event_open": 241, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "memfd_create": 279, "bpf": 280, "userfaultfd": 282,
            "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
            "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "pidfd_getfd": 438,
            "memfd_secret": 447,
        },
    ),
}  # fmt: skip
"""By machine: its audit number, and calls by number. They reach past the sandbox's other walls
(sockets of families without a namespace), hold memory that no limit counts (shared memory), or are
ways into the kernel that no contest program needs.
"""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001
_X32 = 0x40000000


def seccomp_filter(machine: str = platform.machine()) -> bytes | None:
    """A BPF program that refuses those calls with EPERM; None for a machine without a table.

    Calls of another architecture kill the caller.
    """
    if machine not in _REFUSED:
        return None
    architecture, calls = _REFUSED[machine]
    numbers = sorted(calls.values())
    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, len(numbers) + 1, 0, _X32),
    ]
    for index, number in enumerate(numbers):
        program.append((_EQUAL, len(numbers) - index, 0, number))
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    return b"".join(struct.pack("<HBBI", *line) for line in program)
