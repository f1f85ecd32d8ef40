"""The paper device: how long a step would take on hardware that is described by a few rates."""

from dataclasses import dataclass

import numpy as np

from treeserve.errors import ConfigError
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.step import Step

_POOL_SHARE = 0.9
"""Of the memory, for weights and pool together; activations need the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperDevice:
    """Two rooflines, one after the other.

    A step takes `overhead_seconds`, then its linear layers, which are bound by arithmetic on the
    rows or by reading the weights, then its attention, which is bound by arithmetic on what the
    rows see or by reading KV and partial states.
    """

    memory_bytes: float
    bytes_per_second: float
    flops_per_second: float
    """What large matrix products reach, not the peak."""
    weights_bytes: float
    flops_per_row: float
    """Of the linear layers."""
    flops_per_seen_token: float
    """Of attention, for one row and one token that it sees."""
    bytes_per_kv_token: float
    bytes_per_state: float
    """Written and read again, over all layers."""
    item_seconds: float
    """Starting one work item, over all layers, shared by the device's processors."""
    overhead_seconds: float
    """Of a step: launches, sampling, the way to the host and back."""

    def step_seconds(self, step: Step) -> float:
        """How long the step takes."""
        if step.num_rows == 0:
            return self.overhead_seconds
        plan = step.plan
        return self.seconds(
            num_rows=step.num_rows,
            num_seen=int(step.positions.sum(dtype=np.int64)) + step.num_rows,
            tokens_read=plan.counts.tokens_read,
            num_states=len(plan.item_rows),
            num_items=plan.num_items,
        )

    def seconds(
        self,
        *,
        num_rows: int,
        num_seen: float,
        tokens_read: float,
        num_states: int,
        num_items: int,
    ) -> float:
        """How long a step takes that has rows.

        Args:
            num_rows: Tokens that are computed.
            num_seen: Tokens that each row attends to, summed over the rows.
            tokens_read: Of KV, each as often as it is read.
            num_states: Partial results of attention.
            num_items: Work items.
        """
        arithmetic = num_rows * self.flops_per_row / self.flops_per_second
        linear = max(arithmetic, self.weights_bytes / self.bytes_per_second)
        num_bytes = tokens_read * self.bytes_per_kv_token + num_states * self.bytes_per_state
        reading = num_bytes / self.bytes_per_second + num_items * self.item_seconds
        attention = max(num_seen * self.flops_per_seen_token / self.flops_per_second, reading)
        return self.overhead_seconds + linear + attention

    def cost_model(self) -> CostModel:
        """What the planner is told: the same costs, in seconds; merging costs its states alone."""
        return CostModel(
            token_cost=self.bytes_per_kv_token / self.bytes_per_second,
            state_cost=self.bytes_per_state / self.bytes_per_second,
            item_cost=self.item_seconds,
            sharing_cost=0.0,
        )

    def num_pages(self, page_size: int) -> int:
        """Pages of the pool that the memory has room for beside the weights."""
        room = self.memory_bytes * _POOL_SHARE - self.weights_bytes
        return int(room / self.bytes_per_kv_token) // page_size


def _llama_3_8b(
    memory_bytes: float, bytes_per_second: float, flops_per_second: float
) -> PaperDevice:
    """bfloat16; 8.03 billion parameters, 32 layers, 32 query heads and 8 KV heads of 128."""
    return PaperDevice(
        memory_bytes=memory_bytes,
        bytes_per_second=bytes_per_second,
        flops_per_second=flops_per_second,
        weights_bytes=16e9,
        flops_per_row=2 * 8.03e9,
        flops_per_seen_token=4 * 32 * 32 * 128,
        bytes_per_kv_token=32 * 2 * 8 * 128 * 2,
        bytes_per_state=2 * 32 * 32 * (128 + 1) * 4,
        item_seconds=5e-7,
        overhead_seconds=1e-3,
    )


PRESETS = {
    "h100-8b": _llama_3_8b(80e9, 3.35e12, 400e12),
    "a100-8b": _llama_3_8b(80e9, 2.04e12, 220e12),
    "l4-8b": _llama_3_8b(24e9, 0.3e12, 60e12),
}
"""Llama-3-8B on an H100 SXM, an A100 SXM and an L4."""


def preset(name: str) -> PaperDevice:
    """The device of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"--device: {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]
