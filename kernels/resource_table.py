"""What compiled kernels take: the record of one, what must not be, and tables for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from treeserve.kernels.occupancy import MAX_SHARED_BYTES, Footprint, programs_per_multiprocessor
from treeserve.kernels.sass import Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What one configuration needs on one target."""

    name: str
    head_dim: int
    dtype: str
    widest_pairs: int | None
    """Of the attention kernel's tiles; None for other kernels"""
    target: str
    num_warps: int
    registers: int
    """Per thread."""
    shared_bytes: int
    """Per block."""
    spill_bytes: int
    """Per thread, stores and loads, wherever in the kernel."""
    programs_claimed: int | None
    """Per multiprocessor, where a launch counts on it"""
    loops: tuple[Loop, ...]
    """The innermost ones"""
    cubin_bytes: int

    @property
    def inner_loop_spills(self) -> int:
        """Instructions of innermost loops that store or load what was spilled."""
        return sum(loop.spills for loop in self.loops)

    @property
    def programs(self) -> int:
        """That find room on one multiprocessor side by side."""
        footprint = Footprint(self.registers, self.shared_bytes, self.num_warps)
        return programs_per_multiprocessor(footprint, self.target)


def problems(results: Sequence[Compiled]) -> list[str]:
    """What must not be, a line each: what does not fit, and spills where all the time goes."""
    lines = []
    for result in results:
        where = f"{result.name} {result.target}"
        most = MAX_SHARED_BYTES[result.target]
        if result.shared_bytes > most:
            lines.append(
                f"{where}: {result.shared_bytes} bytes of shared memory, but a block has {most}"
            )
        if result.inner_loop_spills:
            lines.append(
                f"{where}: spills in an inner loop, {result.inner_loop_spills} instructions"
            )
        claimed = result.programs_claimed
        if claimed is not None and claimed > result.programs:
            lines.append(
                f"{where}: programs_per_multiprocessor is {claimed}, but {result.programs} fit"
            )
    return lines


def room_left(results: Sequence[Compiled]) -> list[str]:
    """A line for each group of kernels that leaves room for more programs on every target."""
    lines = []
    for key, group in _grouped(results).items():
        claimed = max(result.programs_claimed or 0 for result in group)
        fit = min(result.programs for result in group)
        if 0 < claimed < fit:
            lines.append(f"{key}: {claimed} programs per multiprocessor, with room for {fit}")
    return lines


def text_table(results: Sequence[Compiled]) -> str:
    """A line each."""
    width = max((len(result.name) for result in results), default=4)
    lines = [f"{'name':{width}}  target  registers  shared  spills  in loops  programs"]
    for result in results:
        lines.append(
            f"{result.name:{width}}  {result.target:6}  {result.registers:9}"
            f"  {result.shared_bytes:6}  {result.spill_bytes:6}  {result.inner_loop_spills:8}"
            f"  {result.programs:8}"
        )
    return "\n".join(lines)


def markdown_table(results: Sequence[Compiled]) -> str:
    """The worst case of each kernel, head size, width of dtype and widest tile, target by target.

    "80 / 96" is 80 on the first target and 96 on the second.
    """
    targets = list(dict.fromkeys(result.target for result in results))
    lines = [
        f"Targets: {' / '.join(targets)}. Worst case of each group of kernels.",
        "",
        "| kernel | kernels | warps | registers | shared KiB | spilled bytes | spills in inner "
        "loops | programs that fit | launched |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in _grouped(results).items():
        parts = [[r for r in group if r.target == target] for target in targets]
        present = [part for part in parts if part]

        def cell(values: Sequence[float], form: str = "g") -> str:
            same = len(set(values)) == 1
            return format(values[0], form) if same else " / ".join(format(v, form) for v in values)

        claimed = {r.programs_claimed for r in group} - {None}
        cells = [
            key,
            str(len(group) // len(present)),
            cell([max(r.num_warps for r in part) for part in present]),
            cell([max(r.registers for r in part) for part in present]),
            cell([max(r.shared_bytes for r in part) / 1024 for part in present], ".1f"),
            cell([max(r.spill_bytes for r in part) for part in present]),
            cell([sum(r.inner_loop_spills for r in part) for part in present]),
            cell([min(r.programs for r in part) for part in present]),
            ", ".join(str(claim) for claim in claimed) or "as many as there is work",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _grouped(results: Sequence[Compiled]) -> dict[str, list[Compiled]]:
    """By kernel, head size, width of dtype and widest tile, in this order."""
    groups: dict[tuple[str, str, int, int], list[Compiled]] = {}
    for result in results:
        width = "fp32" if result.dtype == "fp32" else "16 bits"
        kernel, _, _ = result.name.partition(" ")
        # Kernels without tiles differ little by head size.
        head_dim = result.head_dim if result.widest_pairs else 0
        groups.setdefault((kernel, width, head_dim, result.widest_pairs or 0), []).append(result)
    return {_name(key): groups[key] for key in sorted(groups)}


def _name(key: tuple[str, str, int, int]) -> str:
    kernel, width, head_dim, widest_pairs = key
    if not widest_pairs:
        return f"{kernel} {width}"
    return f"{kernel} {width}, head size {head_dim}, tiles up to {widest_pairs}"
