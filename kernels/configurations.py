"""Every kernel configuration that ships: what the wrappers can launch, as a compiler takes it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
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
from treeserve.kernels.tiles import TILE_PAIRS

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One kernel with its types and constants, as a launch would compile it."""

    name: str
    head_dim: int
    dtype: str
    widest_pairs: int | None
    """Of the attention kernel's tiles; None for other kernels"""
    programs_claimed: int | None
    """Per multiprocessor, where a launch counts on it"""
    kernel: Any
    types: Mapping[str, str]
    """Of the arguments that are not int32 lists or plain int32."""
    constants: Mapping[str, int | bool]
    options: Mapping[str, int]


def configurations() -> Iterator[Configuration]:
    """Every configuration that the wrappers can launch, no kernel twice."""
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
        "attention d=96 bf16 m=1..1",
        "attention d=64 bf16 m=16..64",
        "attention d=64 fp32 m=16..32",
        "merge d=128 bf16",
        "merge d=80 bf16 sinks",
        "kv_write d=96 fp16",
    )
    return [configuration for configuration in every if configuration.name in patterns]


def source_of(configuration: Configuration) -> Any:
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
    widest_pairs = min(TILE_PAIRS[widest], most)
    pairs = f"{TILE_PAIRS[narrowest]}..{widest_pairs}"
    return Configuration(
        name=f"attention d={head_dim} {dtype} m={pairs}" + " softcap" * softcap,
        head_dim=head_dim,
        dtype=dtype,
        widest_pairs=widest_pairs,
        programs_claimed=config.programs_per_multiprocessor,
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
        head_dim=head_dim,
        dtype=dtype,
        widest_pairs=None,
        programs_claimed=None,
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
        head_dim=head_dim,
        dtype=dtype,
        widest_pairs=None,
        programs_claimed=None,
        kernel=write_kv_kernel,
        types=dict.fromkeys(("p_k", "p_v", "p_k_cache", "p_v_cache"), f"*{dtype}"),
        constants={"HEAD_DIM": head_dim, "BLOCK": BLOCK},
        options={"num_warps": 4},
    )
