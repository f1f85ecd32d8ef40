"""PyTorch's FlexAttention: the tree as a block mask over its tokens, packed depth first."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from treeserve.bench.attention.paths import pack_tree
from treeserve.bench.attention.sides import Side, Subject, Unavailable, require_memory

_MASK_BYTES_PER_PAIR = 8
"""While a block mask is made, about."""
_RECOMPILES = 256
"""Allowed: shapes, heads and dtypes vary; beyond them it would fall back to plain products."""


def make_flex(subject: Subject) -> Side:
    """One compiled call over all rows and all distinct tokens.

    Raises:
        Unavailable: Not on cuda, or the mask does not fit.
    """
    if subject.device.type != "cuda":
        raise Unavailable("compiled FlexAttention is measured on cuda only")
    torch._dynamo.config.recompile_limit = _RECOMPILES
    return tree_flex(subject, torch.compile(flex_attention, fullgraph=True, dynamic=True))


def tree_flex(subject: Subject, attend: Callable[..., Any]) -> Side:
    """The same with any form of flex_attention, compiled or not."""
    problem, packed = subject.problem, pack_tree(subject.paths)
    device, num_rows = subject.device, subject.paths.num_rows
    num_tokens = len(packed.slots)
    require_memory(_MASK_BYTES_PER_PAIR * num_rows * num_tokens, device)
    first_rows, end_rows = (
        torch.from_numpy(rows).to(device) for rows in (packed.first_rows, packed.end_rows)
    )

    def sees(_b: Tensor, _h: Tensor, row: Tensor, token: Tensor) -> Tensor:
        return (row >= first_rows[token]) & (row < end_rows[token])

    mask = create_block_mask(sees, None, None, num_rows, num_tokens, device=device)
    slots = torch.from_numpy(packed.slots).long().to(device)
    k, v = (
        stored.index_select(0, slots).transpose(0, 1)[None].contiguous()
        for stored in problem.cache.layer(0)
    )
    query = subject.ordered_query().transpose(0, 1)[None].contiguous()

    def call() -> Tensor:
        out: Tensor = attend(
            query,
            k,
            v,
            block_mask=mask,
            scale=problem.scaling,
            enable_gqa=problem.shape.group > 1,
        )
        return out[0].transpose(0, 1)

    with warnings.catch_warnings():
        # Inductor's hints on tuning are not ours to print.
        warnings.simplefilter("ignore")
        call()
    return Side(call, note="block mask over the packed tree")
