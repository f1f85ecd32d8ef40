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

from treeserve.kernels.attention import (
    HEAD_DIMS,
    ROWS_PER_TILE,
    attention_config,
    attention_states_kernel,
    block_of,
)
from treeserve.kernels.kv_write import BLOCK, write_kv_kernel
from treeserve.kernels.merge import merge_states_kernel

TARGETS = ("sm_80", "sm_90")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
GROUPS = range(1, 17)
"""Query heads per KV head."""


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
    """Per thread, stores and loads."""
    cubin_bytes: int


def configurations() -> Iterator[Configuration]:
    """Every configuration that the wrappers can launch."""
    for dtype in DTYPES:
        for head_dim in HEAD_DIMS:
            yield from _attention_configurations(head_dim, dtype)
            for sinks in (None, dtype):
                yield _merge_configuration(head_dim, dtype, sinks)
            yield _kv_write_configuration(head_dim, dtype)


def representative(every: Sequence[Configuration]) -> list[Configuration]:
    """A few that differ most: the common, the largest and the odd head sizes, each dtype."""
    patterns = (
        "attention d=128 bf16 m=64",
        "attention d=256 bf16 m=64 softcap",
        "attention d=80 fp16 m=32",
        "attention d=64 fp32 m=32",
        "attention d=256 fp32 m=16 softcap",
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
    return Compiled(
        name=configuration.name,
        target=target,
        registers=int(registers[1]),
        shared_bytes=compiled.metadata.shared,
        spill_bytes=int(spills[1]) + int(spills[2]),
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print a table or JSON, and return 1 if anything failed."""
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
    return 1 if failures else 0


def _attention_configurations(head_dim: int, dtype: str) -> Iterator[Configuration]:
    tilings = {
        attention_config(head_dim, DTYPES[dtype], ROWS_PER_TILE * group): None for group in GROUPS
    }
    for tiling in tilings:
        for softcap in (False, True):
            yield Configuration(
                name=f"attention d={head_dim} {dtype} m={tiling.block_m}" + " softcap" * softcap,
                kernel=attention_states_kernel,
                types={
                    **dict.fromkeys(("p_q", "p_k", "p_v"), f"*{dtype}"),
                    **dict.fromkeys(("p_o", "p_lse"), "*fp32"),
                    **dict.fromkeys(("scaling", "softcap"), "fp32"),
                },
                constants={
                    "HEAD_DIM": head_dim,
                    "BLOCK_D": block_of(head_dim),
                    "BLOCK_M": tiling.block_m,
                    "BLOCK_N": tiling.block_n,
                    "HAS_SOFTCAP": softcap,
                },
                options={"num_warps": tiling.num_warps, "num_stages": tiling.num_stages},
            )


def _merge_configuration(head_dim: int, dtype: str, sinks: str | None) -> Configuration:
    return Configuration(
        name=f"merge d={head_dim} {dtype}" + " sinks" * (sinks is not None),
        kernel=merge_states_kernel,
        types={
            **dict.fromkeys(("p_o", "p_lse"), "*fp32"),
            "p_sinks": f"*{sinks or 'fp32'}",
            "p_out": f"*{dtype}",
        },
        constants={
            "HEAD_DIM": head_dim,
            "BLOCK_D": triton.next_power_of_2(head_dim),
            "HAS_SINKS": sinks is not None,
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
    print(f"{'name':{width}}  target  registers  shared  spills")
    for result in results:
        print(
            f"{result.name:{width}}  {result.target:6}  {result.registers:9}"
            f"  {result.shared_bytes:6}  {result.spill_bytes:6}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m treeserve.kernels.aot", description=__doc__)
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--representative", action="store_true", help="a few instead of all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
