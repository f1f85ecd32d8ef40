"""How a launch of the attention kernel is tiled, by head size, dtype and its widest tile."""

from dataclasses import dataclass

import torch

HEAD_DIMS = (16, 32, 64, 80, 96, 128, 256)


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """One launch: shapes of tiles up to the widest, all with these numbers."""

    block_n: int
    """KV tokens of one round"""
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int
    """That find room side by side on a device of compute capability 8.0 or 9.0"""


def attention_config(head_dim: int, dtype: torch.dtype, widest_shape: int) -> AttentionConfig:
    """The tiling of a launch whose tiles have at most this shape."""
    if dtype == torch.float32:
        return _FLOAT32_CONFIGS[max(block_of(head_dim), 64)]
    tilings = _FLOAT16_CONFIGS.get(block_of(head_dim), _FLOAT16_CONFIGS[64])
    return tilings[widest_shape]


def max_pairs(head_dim: int, dtype: torch.dtype) -> int:
    """(row, query head of the group) pairs of one tile, at most: the accumulator must fit into
    registers."""
    if dtype == torch.float32:
        return 32 if head_dim <= 128 else 16
    return 128 if head_dim <= 128 else 64


def min_block_m(group: int) -> int:
    """Pairs of one block, at least: tl.dot asks for 16, and a single query head needs no tl.dot."""
    return 1 if group == 1 else 16


def block_of(size: int) -> int:
    """The power of two that holds `size`, and at least 16, as tl.dot asks for."""
    return max(16, 1 << (size - 1).bit_length())


# A round's slots are loaded before its K and V, and the pipeline counts that as rounds of its own:
# with 5 stages there is room for 2 rounds of K and V, and one is on its way while the other is
# worked on; with 9 there are 4 and 3. A program that has a multiprocessor for itself needs those:
# 16 KiB on the way are too little for the memory's latency. A single pair is not pipelined: several
# programs take turns, and no warp of them waits for another.
_FLOAT16_CONFIGS = {
    16: (
        AttentionConfig(block_n=64, num_warps=4, num_stages=2, programs_per_multiprocessor=4),
        AttentionConfig(block_n=64, num_warps=4, num_stages=5, programs_per_multiprocessor=2),
        AttentionConfig(block_n=64, num_warps=8, num_stages=9, programs_per_multiprocessor=1),
        AttentionConfig(block_n=64, num_warps=8, num_stages=9, programs_per_multiprocessor=1),
    ),
    64: (
        AttentionConfig(block_n=64, num_warps=4, num_stages=2, programs_per_multiprocessor=4),
        AttentionConfig(block_n=64, num_warps=4, num_stages=5, programs_per_multiprocessor=3),
        AttentionConfig(block_n=64, num_warps=8, num_stages=9, programs_per_multiprocessor=1),
        AttentionConfig(block_n=64, num_warps=8, num_stages=9, programs_per_multiprocessor=1),
    ),
    128: (
        AttentionConfig(block_n=32, num_warps=4, num_stages=2, programs_per_multiprocessor=4),
        AttentionConfig(block_n=32, num_warps=4, num_stages=5, programs_per_multiprocessor=3),
        AttentionConfig(block_n=32, num_warps=8, num_stages=9, programs_per_multiprocessor=1),
        AttentionConfig(block_n=32, num_warps=8, num_stages=9, programs_per_multiprocessor=1),
    ),
    256: (
        AttentionConfig(block_n=16, num_warps=4, num_stages=2, programs_per_multiprocessor=4),
        AttentionConfig(block_n=32, num_warps=4, num_stages=5, programs_per_multiprocessor=2),
        AttentionConfig(block_n=32, num_warps=8, num_stages=5, programs_per_multiprocessor=1),
        AttentionConfig(block_n=32, num_warps=8, num_stages=5, programs_per_multiprocessor=1),
    ),
}
_FLOAT32_CONFIGS = {
    64: AttentionConfig(block_n=32, num_warps=8, num_stages=1, programs_per_multiprocessor=1),
    128: AttentionConfig(block_n=16, num_warps=8, num_stages=1, programs_per_multiprocessor=1),
    256: AttentionConfig(block_n=16, num_warps=8, num_stages=1, programs_per_multiprocessor=1),
}
