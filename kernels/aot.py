"""Compiles every shipped kernel configuration ahead of time, on any machine, with no GPU."""

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from treeserve.kernels.attention_config import (
    HEAD_DIMS,
    attention_config,
    block_of,
    max_pairs,
    min_block_m,
)
from treeserve.kernels.attention_kernel import attention_kernel
from treeserve.kernels.kv_write import BLOCK, write_kv_kernel
from treeserve.kernels.merge import BLOCK_S, merge_states_kernel
from treeserve.kernels.sass import count_inner_loop_spills
from treeserve.kernels.tiles import TILE_PAIRS

TARGETS = ("sm_80", "sm_90")
MAX_SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10}
"""That one block may have."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One kernel with its types and constants, as a launch would compile it."""

    name: str
    kernel: Any
    types: Mapping[str, str]
    """Of the arguments that are not int32 lists or plain int32."""
    constants: Mapping[str, int | bool]
    options: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one configuration needs on one target."""

    name: str
    target: str
    registers: int
    """Per thread."""
    shared_bytes: int
    """Per block."""
    spill_bytes: int
    """Per thread, stores and loads, wherever in the kernel."""
    inner_loop_spills: int
    """Instructions of innermost loops that store or load them."""
    cubin_bytes: int


def configurations() -> Iterator[Configuration]:
    """Every configuration that the wrappers can launch."""
    for dtype in DTYPES:
        for head_dim in HEAD_DIMS:
            yield from _attention_configurations(head_dim, dtype)
            for sinks in (False, True):
                yield _merge_configuration(head_dim, dtype, sinks)
            yield _kv_write_configuration(head_dim, dtype)


def representative(every: Sequence[Configuration]) -> list[Configuration]:
    """A few that differ most: the common, the largest and the odd head sizes, each dtype."""
    patterns = (
        "attention d=128 bf16 m=1..1",
        "attention d=128 bf16 m=16..16",
        "attention d=128 bf16 m=16..128",
        "attention d=256 bf16 m=16..64 softcap",
        "attention d=80 fp16 m=16..16",
        "attention d=64 fp32 m=16..32",
        "merge d=128 bf16",
        "merge d=80 bf16 sinks",
        "kv_write d=96 fp16",
    )
    return [configuration for configuration in every if configuration.name in patterns]


def compile_for(configuration: Configuration, target: str) -> Compiled:
    """Compile down to a cubin.

    Args:
        configuration: One of `configurations()`.
        target: "sm_80", "sm_90", …
    """
    source = _source(configuration)
    gpu = GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    log = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        triton.knobs.nvidia.scope(),
        triton.knobs.cache.scope(),
        contextlib.redirect_stdout(log),
    ):
        triton.knobs.cache.dir = folder
        triton.knobs.nvidia.dump_ptxas_log = True
        options = {**configuration.options, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=gpu, options=options)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    registers = re.search(r"Used (\d+) registers", log.getvalue())
    if spills is None or registers is None:
        raise RuntimeError(f"{configuration.name}: ptxas said nothing of its registers")
    spill_bytes = int(spills[1]) + int(spills[2])
    return Compiled(
        name=configuration.name,
        target=target,
        registers=int(registers[1]),
        shared_bytes=compiled.metadata.shared,
        spill_bytes=spill_bytes,
        inner_loop_spills=count_inner_loop_spills(compiled.asm["sass"]) if spill_bytes else 0,
        cubin_bytes=len(compiled.asm["cubin"]),
    )


def compile_all(
    chosen: Sequence[Configuration], targets: Sequence[str]
) -> tuple[list[Compiled], int]:
    """Compile each for each target and go on after a failure: what compiled, and failures."""
    results: list[Compiled] = []
    failures = 0
    for configuration in chosen:
        for target in targets:
            try:
                results.append(compile_for(configuration, target))
            except Exception as error:
                failures += 1
                print(f"{configuration.name} {target}: {error}", file=sys.stderr)
    return results, failures


def problems(results: Sequence[Compiled]) -> list[str]:
    """What must not be, a line each: what does not fit, and spills where all the time goes."""
    lines = []
    for result in results:
        most = MAX_SHARED_BYTES[result.target]
        if result.shared_bytes > most:
            lines.append(
                f"{result.name} {result.target}: {result.shared_bytes} bytes of shared "
                f"memory, but a block has {most}"
            )
        if result.inner_loop_spills:
            lines.append(
                f"{result.name} {result.target}: spills in an inner loop, "
                f"{result.inner_loop_spills} instructions"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print a table or JSON, and return 1 if anything failed, spills or does not fit."""
    options = _parser().parse_args(arguments)
    if triton.knobs.runtime.interpret:
        print("TRITON_INTERPRET is set: nothing can be compiled", file=sys.stderr)
        return 2
    chosen = list(configurations())
    if options.representative:
        chosen = representative(chosen)
    results, failures = compile_all(chosen, options.target)
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        _print_table(results)
        print(f"{len(results)} compiled, {failures} failed")
    found = problems(results)
    print(*found, sep="\n", end="\n" * bool(found), file=sys.stderr)
    return 1 if failures or found else 0


def _attention_configurations(head_dim: int, dtype: str) -> Iterator[Configuration]:
    """With one query head per KV head, which has a shape of tiles more, and with several."""
    most = max_pairs(head_dim, DTYPES[dtype])
    widest_of_all = next(shape for shape, pairs in enumerate(TILE_PAIRS) if pairs >= most)
    for group in (1, 2):
        narrowest = int(group > 1)
        for widest in range(narrowest, widest_of_all + 1):
            for softcap in (False, True):
                yield _attention_configuration(head_dim, dtype, group, narrowest, widest, softcap)


def _attention_configuration(
    head_dim: int, dtype: str, group: int, narrowest: int, widest: int, softcap: bool
) -> Configuration:
    config = attention_config(head_dim, DTYPES[dtype], widest)
    most = max_pairs(head_dim, DTYPES[dtype])
    pairs = f"{TILE_PAIRS[narrowest]}..{min(TILE_PAIRS[widest], most)}"
    return Configuration(
        name=f"attention d={head_dim} {dtype} m={pairs}" + " softcap" * softcap,
        kernel=attention_kernel,
        types={
            **dict.fromkeys(("p_q", "p_k", "p_v", "p_sinks", "p_out"), f"*{dtype}"),
            **dict.fromkeys(("p_o", "p_lse"), "*fp32"),
            **dict.fromkeys(("scaling", "softcap"), "fp32"),
        },
        constants={
            "HEAD_DIM": head_dim,
            "BLOCK_D": block_of(head_dim),
            "BLOCK_N": config.block_n,
            "MIN_BLOCK_M": min_block_m(group),
            "MAX_BLOCK_M": most,
            "NARROWEST": narrowest,
            "WIDEST": widest,
            "HAS_SOFTCAP": softcap,
        },
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )


def _merge_configuration(head_dim: int, dtype: str, sinks: bool) -> Configuration:
    return Configuration(
        name=f"merge d={head_dim} {dtype}" + " sinks" * sinks,
        kernel=merge_states_kernel,
        types={
            **dict.fromkeys(("p_o", "p_lse"), "*fp32"),
            **dict.fromkeys(("p_sinks", "p_out"), f"*{dtype}"),
        },
        constants={
            "HEAD_DIM": head_dim,
            "BLOCK_D": triton.next_power_of_2(head_dim),
            "BLOCK_S": BLOCK_S,
            "HAS_SINKS": sinks,
        },
        options={"num_warps": 1},
    )


def _kv_write_configuration(head_dim: int, dtype: str) -> Configuration:
    return Configuration(
        name=f"kv_write d={head_dim} {dtype}",
        kernel=write_kv_kernel,
        types=dict.fromkeys(("p_k", "p_v", "p_k_cache", "p_v_cache"), f"*{dtype}"),
        constants={"HEAD_DIM": head_dim, "BLOCK": BLOCK},
        options={"num_warps": 4},
    )


def _source(configuration: Configuration) -> Any:
    """The kernel with the types and the alignment that a launch would find."""
    signature = {}
    attributes = {}
    for index, parameter in enumerate(configuration.kernel.params):
        name = parameter.name
        if name in configuration.constants:
            signature[name] = "constexpr"
            continue
        pointer = name.startswith("p_")
        signature[name] = configuration.types.get(name, "*i32" if pointer else "i32")
        if pointer or (signature[name] == "i32" and not parameter.do_not_specialize):
            attributes[(index,)] = [["tt.divisibility", 16]]
    constants = dict(configuration.constants)
    return ASTSource(configuration.kernel, signature, constexprs=constants, attrs=attributes)


def _print_table(results: Sequence[Compiled]) -> None:
    width = max((len(result.name) for result in results), default=4)
    print(f"{'name':{width}}  target  registers  shared  spills  in loops")
    for result in results:
        print(
            f"{result.name:{width}}  {result.target:6}  {result.registers:9}"
            f"  {result.shared_bytes:6}  {result.spill_bytes:6}  {result.inner_loop_spills:8}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m treeserve.kernels.aot", description=__doc__)
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--representative", action="store_true", help="a few instead of all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
