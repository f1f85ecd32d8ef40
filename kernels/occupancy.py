"""How many programs of a kernel find room side by side on one multiprocessor."""

from dataclasses import dataclass

REGISTERS = 1 << 16
"""Of a multiprocessor, at 8.0 and 9.0 alike, as all that follows but the shared memory."""
REGISTERS_AT_A_TIME = 256
"""That a warp is given."""
WARPS = 64
WARPS_AT_A_TIME = 4
"""Each quarter of a multiprocessor has registers of its own."""
PROGRAMS = 32
THREADS_OF_A_WARP = 32
MAX_SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10}
"""That one block may have."""
SHARED_BYTES = {"sm_80": 164 << 10, "sm_90": 228 << 10}
"""Of a multiprocessor."""
RESERVED_SHARED_BYTES = 1 << 10
"""Of each block, by the system."""
SHARED_BYTES_AT_A_TIME = 128


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one program takes."""

    registers: int
    """Per thread."""
    shared_bytes: int
    num_warps: int


def programs_per_multiprocessor(footprint: Footprint, target: str) -> int:
    """0 where not even one finds room.

    Args:
        footprint: Of one program.
        target: "sm_80" or "sm_90".
    """
    shared = _round_up(footprint.shared_bytes + RESERVED_SHARED_BYTES, SHARED_BYTES_AT_A_TIME)
    of_a_warp = _round_up(max(footprint.registers, 1) * THREADS_OF_A_WARP, REGISTERS_AT_A_TIME)
    warps_of_registers = REGISTERS // of_a_warp // WARPS_AT_A_TIME * WARPS_AT_A_TIME
    warps = _round_up(footprint.num_warps, WARPS_AT_A_TIME)
    return min(
        SHARED_BYTES[target] // shared,
        warps_of_registers // warps,
        WARPS // footprint.num_warps,
        PROGRAMS,
    )


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
