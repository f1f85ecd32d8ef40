"""The batch: the one place that turns a step into tensors."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from treeserve.device_slots import DeviceSlots
from treeserve.kernels.tiles import Tiles, cut_rows, kinds_of_rows
from treeserve.kernels.work_list import WorkList
from treeserve.scheduler.step import Int32Array, Plan, Step
from treeserve.transfer import send


class StepPreparer(Protocol):
    """The part of an attention backend that a batch is made with."""

    @property
    def shape_rows(self) -> tuple[int, ...] | None:
        """Rows of a tile of each shape, at most; the tiles of the work list are cut for these.
        None: it reads no work list.
        """

    def prepare(self, step: Step, work: WorkList | None) -> object:
        """What the backend works out once a step, for every layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step as tensors on the device of the model."""

    token_ids: Tensor
    """[1, num_rows] int64"""
    positions: Tensor
    """[1, num_rows] int64 where the model takes each token to stand"""
    write_slots: Tensor
    """[num_rows] int32, NO_SLOT where nothing is written"""
    logits_rows: Tensor
    """[num_logits] int64, ascending: the rows that reach the output head"""
    maybe_work: WorkList | None
    """None: made with a backend that reads none."""
    prepared: object
    """What the attention backend that prepared it, and no other, makes of it."""

    @property
    def num_rows(self) -> int:
        return self.write_slots.shape[0]

    @property
    def work(self) -> WorkList:
        """Raises TypeError where the backend that the batch was made with reads none."""
        if self.maybe_work is None:
            raise TypeError("the batch was prepared by another backend")
        return self.maybe_work


@dataclass(frozen=True, slots=True, eq=False)
class CutPlan:
    """A plan's tiles, cut for one backend."""

    tiles: Tiles
    kinds: Int32Array
    """[num_tiles]"""
    needs_merge: bool


class PlanCutter:
    """Cuts one plan after another into tiles; a plan that goes on keeps those that it has.

    Tails that grow in step stay in the order of their lengths, so the longest still come first.
    """

    def __init__(self, shape_rows: tuple[int, ...]) -> None:
        self.shape_rows = shape_rows
        self._lists: tuple[Int32Array, ...] = ()
        self._cut: CutPlan | None = None

    def cut(self, plan: Plan) -> CutPlan:
        # A plan that goes on has the very lists of the one before.
        lists = (plan.item_row_starts, plan.item_rows, plan.row_state_starts)
        if self._cut is None or any(a is not b for a, b in zip(lists, self._lists, strict=True)):
            self._cut, self._lists = self._cut_anew(plan), lists
        return self._cut

    def _cut_anew(self, plan: Plan) -> CutPlan:
        item_tokens = plan.item_slot_ends - plan.item_slot_starts
        tiles = cut_rows(plan.item_row_starts, item_tokens, self.shape_rows)
        return CutPlan(
            tiles=tiles,
            kinds=kinds_of_rows(tiles, plan.item_rows, plan.row_state_starts),
            needs_merge=bool((np.diff(plan.row_state_starts) != 1).any()),
        )


def make_batch(
    step: Step,
    device: torch.device | str,
    preparer: StepPreparer,
    last_drawn: Tensor | None = None,
    slots: DeviceSlots | None = None,
    cutter: PlanCutter | None = None,
) -> Batch:
    """The tensors of a step that has rows, with one copy to the device.

    Args:
        step: As the scheduler decided it, with at least one row.
        device: Of the model.
        preparer: The attention backend that will read the batch.
        last_drawn: [num_draws] int64 on the device: what the step before drew, for rows whose token
            nobody has read. None where there are none.
        slots: Up to date with the step's plan; the batch reads them, so it is good until they are
            updated again. None: the batch has a copy of all slots of its own.
        cutter: For this backend; None: the plan is cut here.
    """
    target, shape_rows = torch.device(device), preparer.shape_rows
    arrays = [step.token_ids, step.write_slots, step.logits_rows, step.positions]
    if step.maybe_model_positions is not None:
        arrays.append(step.maybe_model_positions)
    listed: dict[str, Int32Array] = {}
    if shape_rows is not None:
        cut = (cutter or PlanCutter(shape_rows)).cut(step.plan)
        listed = listed_arrays(step.plan, cut)
        if slots is None:
            listed["item_slots"] = step.plan.item_slots
    sent = send([*arrays, *listed.values()], target)
    token_ids, write_slots, logits_rows, positions = sent[:4]
    work = None
    if shape_rows is not None:
        lists = dict(zip(listed, sent[len(arrays) :], strict=True))
        if slots is not None:
            lists["item_slots"] = slots.entries
        work = WorkList(
            positions=positions,
            **lists,
            shape_rows=shape_rows,
            widest_shape=cut.tiles.widest_shape,
            needs_merge=cut.needs_merge,
        )
    return Batch(
        token_ids=known_tokens(step, token_ids, last_drawn).long()[None],
        positions=sent[len(arrays) - 1].long()[None],
        write_slots=write_slots,
        logits_rows=logits_rows.long(),
        maybe_work=work,
        prepared=preparer.prepare(step, work),
    )


def listed_arrays(plan: Plan, cut: CutPlan) -> dict[str, Int32Array]:
    """The lists of a plan's WorkList by name, but for the rows' positions and the items' slots."""
    return {
        "item_rows": plan.item_rows,
        "item_row_starts": plan.item_row_starts,
        "item_slot_starts": plan.item_slot_starts,
        "item_slot_ends": plan.item_slot_ends,
        "item_start_positions": plan.item_start_positions,
        "row_states": plan.row_states,
        "row_state_starts": plan.row_state_starts,
        "tile_items": cut.tiles.items,
        "tile_state_starts": cut.tiles.state_starts,
        "tile_state_ends": cut.tiles.state_ends,
        "tile_kinds": cut.kinds,
        "shape_starts": cut.tiles.shape_starts,
    }


def known_tokens(step: Step, token_ids: Tensor, last_drawn: Tensor | None) -> Tensor:
    """[num_rows] int32 the step's tokens, those that nobody has read among them.

    Args:
        step: Whose tokens they are.
        token_ids: [num_rows] int32 on the device, as the step has them.
        last_drawn: [num_draws] int64 on the device, or None.

    Raises:
        ValueError: Nothing was drawn that they could stand for.
    """
    if step.token_ids.min() >= 0:
        return token_ids
    if last_drawn is None:
        raise ValueError(
            f"step {step.number}: token_ids: {step.token_ids.min()} stands for a token of the "
            "step before, which drew none"
        )
    unread = (-1 - token_ids).clamp(min=0, max=len(last_drawn) - 1)
    return torch.where(token_ids < 0, last_drawn.index_select(0, unread).int(), token_ids)
