"""One layer's inputs: random queries, keys and values of a step's rows, and a random KV cache."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from treeserve.attention.backend import AttentionBackend, kv_layout
from treeserve.batch import Batch
from treeserve.kv_cache import KVCache
from treeserve.scheduler.step import Plan, Step

TOLERANCES = {"float32": 5e-5, "float16": 4e-3, "bfloat16": 2e-2}
"""Largest difference from the reference, as a share of its largest value."""
_SHARPNESS = 3.0
"""Of the queries: the wider logits spread, the more a single token weighs, and so one that is
missing shows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the attention is like."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def heads(self) -> str:
        return f"{self.num_heads}/{self.num_kv_heads}"


@dataclass(frozen=True, slots=True)
class Options:
    """What a layer may do beside plain attention."""

    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


PLAIN = Options()


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One layer's inputs, all random, the same for the same shape and step."""

    shape: Shape
    query: Tensor
    """[num_rows, num_heads, head_dim]"""
    key: Tensor
    """[num_rows, num_kv_heads, head_dim] of the rows' own tokens"""
    value: Tensor
    cache: KVCache

    @property
    def scaling(self) -> float:
        return float(self.shape.head_dim**-0.5)

    def attend(self, backend: AttentionBackend, batch: Batch, options: Options = PLAIN) -> Tensor:
        """[num_rows, num_heads, head_dim]"""
        return backend.attend(
            self.query,
            self.key,
            self.value,
            0,
            batch,
            scaling=self.scaling,
            window=options.window,
            softcap=options.softcap,
            sinks=options.sinks,
        )

    def read_by(self, backend_name: str) -> "Problem":
        """The same numbers, in a KV cache that this backend reads."""
        layout = kv_layout(backend_name)
        if layout == self.cache.layout:
            return self
        old = self.cache
        cache = KVCache(old.layer_shapes, old.num_slots, old.dtype, old.device, layout)
        slots = np.arange(old.num_slots, dtype=np.int32)
        cache.write_slots(slots, old.read_slots(slots))
        return replace(self, cache=cache)

    def call(self, backend: AttentionBackend, batch: Batch) -> Callable[[], Tensor]:
        return lambda: self.attend(backend, batch)

    def in_float64(self) -> "Problem":
        """The same numbers, for the truth."""
        cache = KVCache(
            self.cache.layer_shapes, self.cache.num_slots, torch.float64, self.cache.device
        )
        for copy, stored in zip(cache.layer(0), self.cache.layer(0), strict=True):
            copy.copy_(stored)
        return Problem(
            self.shape, self.query.double(), self.key.double(), self.value.double(), cache
        )


def make_problem(step: Step, shape: Shape, device: torch.device) -> Problem:
    """Random inputs for a step."""
    dtype = shape.torch_dtype
    cache = KVCache([(shape.num_kv_heads, shape.head_dim)], last_slot(step.plan) + 1, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    for stored in cache.layer(0):
        stored.normal_(generator=generator)

    def random(heads: int, scale: float = 1.0) -> Tensor:
        numbers = torch.randn(
            step.num_rows, heads, shape.head_dim, generator=generator, device=device
        )
        return (numbers * scale).to(dtype)

    query = random(shape.num_heads, _SHARPNESS)
    return Problem(shape, query, random(shape.num_kv_heads), random(shape.num_kv_heads), cache)


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """Largest difference, as a share of the truth's largest value; NaN if anything is."""
    scale = truth.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((actual.to(truth.dtype) - truth).abs().max() / scale)


def last_slot(plan: Plan) -> int:
    """That any item reads."""
    spans = zip(plan.item_slot_starts.tolist(), plan.item_slot_ends.tolist(), strict=True)
    return max(int(plan.item_slots[start:end].max()) for start, end in spans)
