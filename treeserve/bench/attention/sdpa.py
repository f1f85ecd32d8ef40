"""PyTorch's fused attention: the KV of every request gathered beforehand, and read per request."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treeserve.bench.attention.sides import Side, Subject, require_memory


def make_sdpa(subject: Subject) -> Side:
    """One call for all requests.

    Query heads of a group are rows of one product, so that no key is read twice for them. Requests
    of one length are a batch as they are; else all are padded to the longest, with a mask.

    Raises:
        Unavailable: The gathered KV does not fit.
    """
    problem, paths = subject.problem, subject.paths
    shape, lengths = problem.shape, paths.lengths
    num_rows, longest = paths.num_rows, int(lengths.max())
    kv_numbers = 2 * num_rows * longest * shape.num_kv_heads * shape.head_dim
    # As it is gathered, one of the two is there twice.
    require_memory(kv_numbers * shape.torch_dtype.itemsize * 3 // 2, subject.device)
    slots = np.zeros((num_rows, longest), dtype=np.int64)
    for row, path in enumerate(paths.slots):
        slots[row, : len(path)] = path
    index = torch.from_numpy(slots).to(subject.device)
    cache = problem.cache.layer(0)
    k, v = (_gather(stored, index) for stored in (cache.k, cache.v))
    query = subject.ordered_query().view(num_rows, shape.num_kv_heads, shape.group, shape.head_dim)
    mask = None
    note = "batched by equal length"
    if lengths.min() < longest:
        visible = torch.arange(longest)[None] < torch.from_numpy(lengths)[:, None]
        mask = visible[:, None, None].to(subject.device)
        note = "padded to the longest, with a mask"

    def call() -> Tensor:
        out = scaled_dot_product_attention(query, k, v, attn_mask=mask, scale=problem.scaling)
        return out.reshape(num_rows, shape.num_heads, shape.head_dim)

    return Side(call, note=note)


def _gather(stored: Tensor, index: Tensor) -> Tensor:
    """[num_rows, num_kv_heads, longest, head_dim]"""
    gathered = stored.index_select(0, index.flatten())
    return gathered.view(*index.shape, *stored.shape[1:]).transpose(1, 2).contiguous()
