"""FlashInfer's batch decode and multi-level cascade over paged KV, where it is installed."""

import importlib
from typing import Any

import torch
from torch import Tensor

from treeserve.bench.attention.paths import PageTable, cascade_tables, request_table
from treeserve.bench.attention.sides import Side, Subject, Unavailable

_WORKSPACE_BYTES = 256 << 20
_LAYOUT = "NHD"
_PAGE_SIZE = 1
"""A token: nodes of the tree may end anywhere."""
_LEAST_GROUP_FOR_TENSOR_CORES = 4


def make_decode(subject: Subject) -> Side:
    """BatchDecodeWithPagedKVCacheWrapper: every request reads its whole path.

    Raises:
        Unavailable: FlashInfer is not installed, or not on cuda.
    """
    flashinfer = _flashinfer(subject.device)
    shape, device = subject.problem.shape, subject.device
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        _workspace(device),
        _LAYOUT,
        use_tensor_cores=shape.group >= _LEAST_GROUP_FOR_TENSOR_CORES,
    )
    table = request_table(subject.paths)
    wrapper.plan(
        *_on(device, table.page_starts, table.pages, table.last_page_lengths),
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        _PAGE_SIZE,
        q_data_type=shape.torch_dtype,
        kv_data_type=shape.torch_dtype,
        sm_scale=subject.problem.scaling,
    )
    return _side(subject, wrapper, "pages of one token, read per request")


def make_cascade(subject: Subject) -> Side:
    """MultiLevelCascadeAttentionWrapper with as many levels as the tree has.

    Raises:
        Unavailable: FlashInfer is not installed, or not on cuda.
    """
    flashinfer = _flashinfer(subject.device)
    shape, device = subject.problem.shape, subject.device
    tables = cascade_tables(subject.paths)
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(tables), _workspace(device), _LAYOUT)
    wrapper.plan(
        *(_each(device, tables, name) for name in _TABLE_NAMES),
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        _PAGE_SIZE,
        causal=False,
        sm_scale=subject.problem.scaling,
        q_data_type=shape.torch_dtype,
        kv_data_type=shape.torch_dtype,
    )
    return _side(subject, wrapper, f"pages of one token, {len(tables)} levels")


_TABLE_NAMES = ("row_starts", "page_starts", "pages", "last_page_lengths")
"""In the order in which the cascade's plan takes them."""


def _flashinfer(device: torch.device) -> Any:
    if device.type != "cuda":
        raise Unavailable("FlashInfer runs on cuda only")
    try:
        return importlib.import_module("flashinfer")
    except ImportError as error:
        raise Unavailable("flashinfer is not installed") from error


def _workspace(device: torch.device) -> Tensor:
    return torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)


def _on(device: torch.device, *arrays: Any) -> list[Tensor]:
    return [torch.from_numpy(array).to(device) for array in arrays]


def _each(device: torch.device, tables: list[PageTable], name: str) -> list[Tensor]:
    return _on(device, *(getattr(table, name) for table in tables))


def _side(subject: Subject, wrapper: Any, note: str) -> Side:
    query = subject.ordered_query()
    pages = tuple(stored.unsqueeze(1) for stored in subject.problem.cache.layer(0))

    def call() -> Tensor:
        out: Tensor = wrapper.run(query, pages)
        return out

    return Side(call, note=note)
