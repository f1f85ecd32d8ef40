"""The work list: one step's work items as device arrays, in the form that the kernels read."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """Every tensor is int32, contiguous, on the device of the queries.

    Ragged lists are in CSR form, but for the items' slots, which have starts and ends. Each
    list means what `treeserve.scheduler.step.Plan` says;
    kernels know nothing of it beyond what stands here.

    The kernels take what varies from step to step from the tensors alone: how many tiles there are
    stands in `shape_starts`, and lists may be longer than what is in use. So a launch that a CUDA
    graph has captured works through any step whose `widest_shape` and `shape_rows` it was made for.
    """

    positions: Tensor
    """[num_rows] place of each query token in its own order: who sees what"""
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
    """[num_items] position of the item's first token; the others follow one by one. Before 0: they
    are seen by every row"""
    row_states: Tensor
    """[num_states] the states of each row, in the order in which they are merged"""
    row_state_starts: Tensor
    """[num_rows + 1]"""
    tile_items: Tensor
    """[num_tiles] the item that each tile of the attention kernel works on"""
    tile_state_starts: Tensor
    """[num_tiles] the first of the tile's states: together the tiles of an item hold each of its
    states once"""
    tile_state_ends: Tensor
    """[num_tiles] one after the last"""
    tile_kinds: Tensor
    """[num_tiles] ONE_STATE, SEVERAL_STATES or their sum: which kinds of rows the tile has"""
    shape_starts: Tensor
    """[NUM_SHAPES + 1] tiles `[shape_starts[s], shape_starts[s + 1])` are of shape s"""
    shape_rows: tuple[int, ...]
    """[NUM_SHAPES] rows of a tile of each shape, at most"""
    widest_shape: int
    """No tile is of a larger one."""
    needs_merge: bool
    """Whether there are rows with several states, or with none: those that the merge writes."""

    @property
    def num_rows(self) -> int:
        return self.positions.shape[0]

    @property
    def num_states(self) -> int:
        return self.item_rows.shape[0]

    @property
    def num_stored_states(self) -> int:
        """States that o and lse must have room for."""
        return self.num_states if self.needs_merge else 0

    @property
    def num_tiles(self) -> int:
        return self.tile_items.shape[0]
