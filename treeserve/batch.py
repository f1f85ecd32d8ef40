"""The batch: the one place that turns a step into tensors."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from treeserve.kernels.work_list import WorkList
from treeserve.scheduler.step import Int32Array, Step

_ALIGNMENT = 4
"""int32 elements: each array starts at a multiple of 16 bytes, so kernels see aligned pointers."""


class StepPreparer(Protocol):
    """The part of an attention backend that a batch is made with."""

    @property
    def rows_per_tile(self) -> int:
        """Rows of one tile of the work list, at most."""

    def prepare(self, step: Step, work: WorkList) -> object:
        """What the backend works out once a step, for every layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step as tensors on the device of the model."""

    token_ids: Tensor
    """[1, num_rows] int64"""
    positions: Tensor
    """[1, num_rows] int64"""
    write_slots: Tensor
    """[num_rows] int32, NO_SLOT where nothing is written"""
    logits_rows: Tensor
    """[num_logits] int64, ascending: the rows that reach the output head"""
    work: WorkList
    prepared: object
    """What the attention backend that prepared it, and no other, makes of it."""

    @property
    def num_rows(self) -> int:
        return self.write_slots.shape[0]


def make_batch(step: Step, device: torch.device | str, preparer: StepPreparer) -> Batch:
    """The tensors of a step that has rows, with one copy to the device.

    Args:
        step: As the scheduler decided it, with at least one row.
        device: Of the model.
        preparer: The attention backend that will read the batch.
    """
    plan = step.plan
    tile_items, tile_row_offsets = _tiles(plan.item_row_starts, preparer.rows_per_tile)
    names = {
        "positions": step.positions,
        "item_rows": plan.item_rows,
        "item_row_starts": plan.item_row_starts,
        "item_slots": plan.item_slots,
        "item_slot_starts": plan.item_slot_starts,
        "item_slot_ends": plan.item_slot_ends,
        "item_start_positions": plan.item_start_positions,
        "row_states": plan.row_states,
        "row_state_starts": plan.row_state_starts,
        "tile_items": tile_items,
        "tile_row_offsets": tile_row_offsets,
    }
    arrays = [*names.values(), step.token_ids, step.write_slots, step.logits_rows]
    *listed, token_ids, write_slots, logits_rows = _to_device(arrays, torch.device(device))
    work = WorkList(**dict(zip(names, listed, strict=True)), rows_per_tile=preparer.rows_per_tile)
    return Batch(
        token_ids=token_ids.long()[None],
        positions=work.positions.long()[None],
        write_slots=write_slots,
        logits_rows=logits_rows.long(),
        work=work,
        prepared=preparer.prepare(step, work),
    )


def _tiles(item_row_starts: Int32Array, rows_per_tile: int) -> tuple[Int32Array, Int32Array]:
    """Cut each item's rows into tiles: (tile_items, tile_row_offsets)."""
    tiles_per_item = -(-np.diff(item_row_starts) // rows_per_tile)
    tile_items = np.repeat(np.arange(len(tiles_per_item)), tiles_per_item)
    first_tiles = np.cumsum(tiles_per_item) - tiles_per_item
    tile_row_offsets = (np.arange(len(tile_items)) - first_tiles[tile_items]) * rows_per_tile
    return tile_items.astype(np.int32), tile_row_offsets.astype(np.int32)


def _to_device(arrays: list[Int32Array], device: torch.device) -> list[Tensor]:
    """The arrays as views of one int32 buffer on the device."""
    sizes = [len(array) for array in arrays]
    ends = np.cumsum([-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes])
    starts = [0, *ends[:-1].tolist()]
    pinned = device.type == "cuda"
    buffer = torch.empty(int(ends[-1]), dtype=torch.int32, pin_memory=pinned)
    host = buffer.numpy()
    for array, start, size in zip(arrays, starts, sizes, strict=True):
        host[start : start + size] = array
    on_device = buffer.to(device, non_blocking=pinned)
    return [on_device[start : start + size] for start, size in zip(starts, sizes, strict=True)]
