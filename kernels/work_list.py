"""The work list: one step's work items as device arrays, in the form that the kernels read."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """Every tensor is int32, contiguous, on the device of the queries.

    Ragged lists are in CSR form, but for the items' slots, which have starts and ends. Each
    list means what `treeserve.scheduler.step.Plan` says;
    kernels know nothing of it beyond what stands here.
    """

    positions: Tensor
    """[num_rows] position of each query token"""
    item_rows: Tensor
    """[num_states] the rows of each item, item after item; state s is (item, item_rows[s])"""
    item_row_starts: Tensor
    """[num_items + 1]"""
    item_slots: Tensor
    """[num_arena_slots] the KV slots of each item, in order of position; what lies between the
    items is never read"""
    item_slot_starts: Tensor
    """[num_items] where each item's slots start in `item_slots`"""
    item_slot_ends: Tensor
    """[num_items] where they end"""
    item_start_positions: Tensor
    """[num_items] position of the item's first token; the others follow one by one"""
    row_states: Tensor
    """[num_states] the states of each row, in the order in which they are merged"""
    row_state_starts: Tensor
    """[num_rows + 1]"""
    tile_items: Tensor
    """[num_tiles] the item that each tile of the attention kernel works on"""
    tile_row_offsets: Tensor
    """[num_tiles] the tile's first row, counted from the item's own first row"""
    rows_per_tile: int
    """Rows of one tile, at most: together the tiles of an item hold each of its rows once."""

    @property
    def num_rows(self) -> int:
        return self.positions.shape[0]

    @property
    def num_states(self) -> int:
        return self.item_rows.shape[0]

    @property
    def num_tiles(self) -> int:
        return self.tile_items.shape[0]
