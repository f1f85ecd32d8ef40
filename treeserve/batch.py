"""The batch: the one place that turns a step into tensors."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from treeserve.kernels.tiles import cut_rows, kinds_of_rows
from treeserve.kernels.work_list import WorkList
from treeserve.scheduler.step import Int32Array, Step

_ALIGNMENT = 4
"""int32 elements: each array starts at a multiple of 16 bytes, so kernels see aligned pointers."""


class StepPreparer(Protocol):
    """The part of an attention backend that a batch is made with."""

    @property
    def shape_rows(self) -> tuple[int, ...]:
        """Rows of a tile of each shape, at most; the tiles of the work list are cut for these."""

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


def make_batch(
    step: Step,
    device: torch.device | str,
    preparer: StepPreparer,
    last_drawn: Tensor | None = None,
) -> Batch:
    """The tensors of a step that has rows, with one copy to the device.

    Args:
        step: As the scheduler decided it, with at least one row.
        device: Of the model.
        preparer: The attention backend that will read the batch.
        last_drawn: [num_draws] int64 on the device: what the step before drew, for rows whose token
            nobody has read. None where there are none.
    """
    plan, shape_rows = step.plan, preparer.shape_rows
    item_tokens = plan.item_slot_ends - plan.item_slot_starts
    tiles = cut_rows(plan.item_row_starts, item_tokens, shape_rows)
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
        "tile_items": tiles.items,
        "tile_state_starts": tiles.state_starts,
        "tile_state_ends": tiles.state_ends,
        "tile_kinds": kinds_of_rows(tiles, plan.item_rows, plan.row_state_starts),
        "shape_starts": tiles.shape_starts,
    }
    arrays = [*names.values(), step.token_ids, step.write_slots, step.logits_rows]
    *listed, token_ids, write_slots, logits_rows = _to_device(arrays, torch.device(device))
    work = WorkList(
        **dict(zip(names, listed, strict=True)),
        shape_rows=shape_rows,
        widest_shape=tiles.widest_shape,
        needs_merge=bool((np.diff(plan.row_state_starts) != 1).any()),
    )
    return Batch(
        token_ids=_known(token_ids.long(), last_drawn)[None],
        positions=work.positions.long()[None],
        write_slots=write_slots,
        logits_rows=logits_rows.long(),
        work=work,
        prepared=preparer.prepare(step, work),
    )


def _known(token_ids: Tensor, last_drawn: Tensor | None) -> Tensor:
    """[num_rows] the token ids, those that nobody has read among them."""
    if last_drawn is None or not len(last_drawn):
        return token_ids
    unread = (-1 - token_ids).clamp(min=0, max=len(last_drawn) - 1)
    return torch.where(token_ids < 0, last_drawn[unread], token_ids)


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
