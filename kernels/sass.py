"""Reads a kernel's machine code, as Triton prints it: what its innermost loops do, spills too."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_LABEL = re.compile(r"^(L\w+):")
_BRANCH = re.compile(r"\bBRA\b.*?\b(LBB\w+)")
_INSTRUCTION = re.compile(r"\t(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)")
_WAIT = re.compile(r"\tDEPBAR\.LE SB0, ?(0x[0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Loop:
    """One innermost loop: its instructions, by what they are to the kernels here."""

    instructions: int
    wide_copies: int
    """From global to shared memory, asynchronously, 16 bytes a thread"""
    narrow_copies: int
    """The same of fewer bytes"""
    wide_loads: int
    """From global memory into registers, 16 bytes a thread"""
    groups: int
    """Groups of asynchronous copies that a round starts"""
    groups_in_flight: int
    """That may still be on their way where the round has waited; 0 where none are started"""
    warp_products: int
    """Matrix products of one warp: mma"""
    warpgroup_products: int
    """Of four warps together: wgmma"""
    barriers: int
    """Where all warps of the program wait for each other"""
    shared_accesses: int
    """Loads and stores of shared memory, products' own reads aside"""
    spills: int
    """Loads and stores of spilled registers"""


def inner_loops(sass: str) -> list[Loop]:
    """The innermost loops that have any work, in the order of the code.

    Args:
        sass: One instruction or label a line.
    """
    lines = sass.splitlines()
    labels = {label[1]: i for i, line in enumerate(lines) if (label := _LABEL.match(line))}
    branches = [(i, branch[1]) for i, line in enumerate(lines) if (branch := _BRANCH.search(line))]
    loops = [(labels[to], i) for i, to in branches if labels.get(to, i) < i - 1]
    innermost = [
        loop
        for loop in loops
        if not any(
            loop[0] <= start and end <= loop[1] for start, end in loops if (start, end) != loop
        )
    ]
    return [_loop(lines[start : end + 1]) for start, end in innermost]


def count_inner_loop_spills(sass: str) -> int:
    """Instructions of innermost loops that read or write what was spilled.

    Args:
        sass: One instruction or label a line.
    """
    return sum(loop.spills for loop in inner_loops(sass))


def _loop(lines: list[str]) -> Loop:
    names = Counter(name[1] for line in lines if (name := _INSTRUCTION.search(line)))
    waits = [int(wait[1], 16) for line in lines if (wait := _WAIT.search(line))]

    def count(of: Callable[[str], bool]) -> int:
        return sum(number for name, number in names.items() if of(name))

    return Loop(
        instructions=names.total(),
        wide_copies=count(lambda name: name.startswith("LDGSTS") and ".128" in name),
        narrow_copies=count(lambda name: name.startswith("LDGSTS") and ".128" not in name),
        wide_loads=count(lambda name: name.startswith("LDG.") and ".128" in name),
        groups=names["LDGDEPBAR"],
        groups_in_flight=min(waits, default=0),
        warp_products=count(lambda name: name.startswith("HMMA")),
        warpgroup_products=count(lambda name: name.startswith("HGMMA")),
        barriers=count(lambda name: name.startswith("BAR")),
        shared_accesses=count(lambda name: name.split(".")[0] in {"LDS", "STS"}),
        spills=count(lambda name: name.split(".")[0] in {"LDL", "STL"}),
    )
