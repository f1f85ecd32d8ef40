"""Reads a kernel's machine code, as Triton prints it: where registers are spilled."""

import re

_LABEL = re.compile(r"^(L\w+):")
_BRANCH = re.compile(r"\bBRA\b.*?\b(LBB\w+)")
_SPILL = re.compile(r"\b(LDL|STL)\b")


def count_inner_loop_spills(sass: str) -> int:
    """Instructions of innermost loops that read or write what was spilled.

    Args:
        sass: One instruction or label a line.
    """
    lines = sass.splitlines()
    labels = {label[1]: i for i, line in enumerate(lines) if (label := _LABEL.match(line))}
    branches = [(i, branch[1]) for i, line in enumerate(lines) if (branch := _BRANCH.search(line))]
    loops = [(labels[to], i) for i, to in branches if labels.get(to, i) < i]
    innermost = [
        loop
        for loop in loops
        if not any(
            loop[0] <= start and end <= loop[1] for start, end in loops if (start, end) != loop
        )
    ]
    spills = [i for i, line in enumerate(lines) if _SPILL.search(line)]
    return sum(any(start < i < end for start, end in innermost) for i in spills)
