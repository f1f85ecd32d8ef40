"""The static batch: buffers at fixed addresses that decode steps of one bucket are copied into."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from treeserve.batch import Batch, CutPlan, StepPreparer, known_tokens, listed_arrays
from treeserve.device_slots import DeviceSlots
from treeserve.kernels.tiles import NUM_SHAPES
from treeserve.kernels.work_list import WorkList
from treeserve.scheduler.step import NO_SLOT, Int32Array, Step
from treeserve.transfer import aligned_starts, host_buffer


@dataclass(frozen=True, slots=True)
class Bucket:
    """Steps that share a graph: so many rows at most, and tiles of this shape at the widest."""

    num_rows: int
    widest_shape: int

    @property
    def max_states(self) -> int:
        """States, items and tiles that there is room for, each."""
        return 4 * self.num_rows + 1024

    def holds(self, step: Step, cut: CutPlan) -> bool:
        """Whether a step of no more rows, with tiles no wider, fits."""
        plan = step.plan
        most = max(len(plan.item_rows), plan.num_items, len(cut.tiles.items))
        return most <= self.max_states


def padded_rows(num_rows: int, max_rows: int) -> int:
    """The rows of the bucket for a step of so many; `max_rows` is the largest there is."""
    for size in (1, 2, 4):
        if num_rows <= size:
            return min(size, max_rows)
    by = next(by for up_to, by in _ROUNDED if num_rows <= up_to)
    return min(-(-num_rows // by) * by, max_rows)


_ROUNDED = ((16, 4), (64, 8), (256, 16), (512, 32), (1 << 62, 64))
"""(up to so many rows, rounded up to a multiple of this)"""


class StaticBatch:
    """`batch` is one object for good, and every host value in it follows from the bucket alone.

    What a step has less than the bucket is padded so that it does nothing: a row without a step's
    row has token 0 at position 0, writes nowhere, and has no states, so the merge gives it zeros.
    Beyond the counts that stand on the device, lists hold anything.
    """

    def __init__(
        self, bucket: Bucket, device: torch.device, preparer: StepPreparer, slots: DeviceSlots
    ) -> None:
        """Allocate the buffers.

        Args:
            bucket: Of the steps to come.
            device: Of the model.
            preparer: An attention backend that reads work lists and prepares nothing else.
            slots: Of which the batch reads the present `entries`, and no later ones.
        """
        assert preparer.shape_rows is not None
        self._bucket = bucket
        self._device = device
        sizes = _sizes(bucket)
        starts, self._num_bytes = aligned_starts([4 * size for size in sizes.values()])
        self._spans = {
            name: slice(start // 4, start // 4 + size)
            for (name, size), start in zip(sizes.items(), starts, strict=True)
        }
        self._buffer = torch.zeros(self._num_bytes // 4, dtype=torch.int32, device=device)
        lists = {name: self._buffer[span] for name, span in self._spans.items()}
        self.token_ids = lists.pop("token_ids")
        """[bucket.num_rows] int32"""
        write_slots, model_positions = lists.pop("write_slots"), lists.pop("model_positions")
        self.work = WorkList(
            **lists,
            item_slots=slots.entries,
            shape_rows=preparer.shape_rows,
            widest_shape=bucket.widest_shape,
            needs_merge=True,
        )
        self.model_positions = model_positions
        """[bucket.num_rows] int32"""
        self.write_slots = write_slots
        """[bucket.num_rows] int32"""
        self.logits_rows = torch.arange(bucket.num_rows, device=device)
        """[bucket.num_rows] int64: every row reaches the output head"""

    def batch(self) -> Batch:
        """Its ids and positions are computed from the buffers: within a capture, on each replay."""
        return Batch(
            token_ids=self.token_ids.long()[None],
            positions=self.model_positions.long()[None],
            write_slots=self.write_slots,
            logits_rows=self.logits_rows,
            maybe_work=self.work,
            prepared=None,
        )

    def fill(self, step: Step, cut: CutPlan, last_drawn: Tensor | None) -> None:
        """Copy a step that the bucket holds into the buffers, with one copy to the device.

        Raises:
            ValueError: As `known_tokens` does.
        """
        host_bytes = host_buffer(self._num_bytes, self._device)
        host: Int32Array = host_bytes.numpy().view(np.int32)
        num_rows, plan = step.num_rows, step.plan
        padding = {
            "positions": (step.positions, 0),
            "model_positions": (step.model_positions, 0),
            "token_ids": (step.token_ids, 0),
            "write_slots": (step.write_slots, NO_SLOT),
            "row_state_starts": (plan.row_state_starts, len(plan.item_rows)),
        }
        for name, array in listed_arrays(plan, cut).items():
            start = self._spans[name].start
            host[start : start + len(array)] = array
        for name, (array, value) in padding.items():
            span = self._spans[name]
            host[span.start : span.start + len(array)] = array
            host[span.start + len(array) : span.stop] = value
        self._buffer.copy_(host_bytes.view(torch.int32), non_blocking=True)
        mine = self.token_ids[:num_rows]
        known = known_tokens(step, mine, last_drawn)
        if known is not mine:
            mine.copy_(known)


def _sizes(bucket: Bucket) -> dict[str, int]:
    """int32 elements of each list"""
    rows, most = bucket.num_rows, bucket.max_states
    return {
        "token_ids": rows,
        "positions": rows,
        "model_positions": rows,
        "write_slots": rows,
        "item_rows": most,
        "item_row_starts": most + 1,
        "item_slot_starts": most,
        "item_slot_ends": most,
        "item_start_positions": most,
        "row_states": most,
        "row_state_starts": rows + 1,
        "tile_items": most,
        "tile_state_starts": most,
        "tile_state_ends": most,
        "tile_kinds": most,
        "shape_starts": NUM_SHAPES + 1,
    }
