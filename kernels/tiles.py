"""The tiles: how the rows of each work item are cut into the jobs of the attention kernel."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Int32Array: TypeAlias = NDArray[np.int32]

TILE_PAIRS = (1, 16, 64, 128)
"""The shapes of tiles: (row, query head of the group) pairs of one, at most. One pair is a product
of a vector and a matrix; tensor cores want at least 16."""
ONE_STATE, SEVERAL_STATES = 1, 2
"""Kinds of rows: those whose only state is their output, and those whose states are merged."""
NUM_SHAPES = len(TILE_PAIRS)
ANY_SHAPE_ROWS = TILE_PAIRS
"""For those who do not read tiles."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """A step's tiles, shape by shape from the smallest, the longest first within a shape."""

    items: Int32Array
    """[num_tiles] the item that each tile works on"""
    state_starts: Int32Array
    """[num_tiles] the first of the tile's states, which are some or all of the item's"""
    state_ends: Int32Array
    """[num_tiles] one after the last"""
    shape_starts: Int32Array
    """[NUM_SHAPES + 1] tiles `[shape_starts[s], shape_starts[s + 1])` are of shape s"""
    widest_shape: int
    """The largest that any tile has."""


def rows_of_shapes(group: int, max_pairs: int) -> tuple[int, ...]:
    """Rows of a tile of each shape, at most; 0 for shapes that a launch had better not have.

    Args:
        group: Query heads per KV head.
        max_pairs: Of one tile, as head size and dtype allow.
    """
    pairs = [min(shape, max_pairs) for shape in TILE_PAIRS]
    rows = [shape // group for shape in pairs]
    rows[0] = int(group == 1)
    rows[-1] = max(rows[-1], 1)
    return tuple(rows)


def cut_rows(
    item_row_starts: Int32Array, item_tokens: NDArray[np.integer], shape_rows: tuple[int, ...]
) -> Tiles:
    """Each item in tiles of the largest shape, and what is left of its rows in the smallest that
    holds it.

    Args:
        item_row_starts: [num_items + 1]
        item_tokens: [num_items] KV tokens of each.
        shape_rows: [NUM_SHAPES] ascending: rows of a tile of each shape, at most.
    """
    most = shape_rows[-1]
    num_rows = np.diff(item_row_starts)
    tiles_per_item = -(-num_rows // most)
    items = np.repeat(np.arange(len(num_rows)), tiles_per_item)
    ordinals = np.arange(len(items)) - (np.cumsum(tiles_per_item) - tiles_per_item)[items]
    starts = item_row_starts[items] + ordinals * most
    ends = np.minimum(starts + most, item_row_starts[items + 1])
    shapes = np.searchsorted(shape_rows, ends - starts)
    # The longest first: what is started last should be short.
    order = np.argsort((shapes << 32) - item_tokens[items], kind="stable")
    shape_starts = np.searchsorted(shapes[order], np.arange(NUM_SHAPES + 1))
    return Tiles(
        items=items[order].astype(np.int32),
        state_starts=starts[order].astype(np.int32),
        state_ends=ends[order].astype(np.int32),
        shape_starts=shape_starts.astype(np.int32),
        widest_shape=int(shapes.max(initial=0)),
    )


def kinds_of_rows(tiles: Tiles, item_rows: Int32Array, row_state_starts: Int32Array) -> Int32Array:
    """[num_tiles] ONE_STATE, SEVERAL_STATES or their sum."""
    has_one = np.diff(row_state_starts)[item_rows] == 1
    before = np.concatenate([[0], np.cumsum(has_one)])
    num_one = before[tiles.state_ends] - before[tiles.state_starts]
    several = num_one < tiles.state_ends - tiles.state_starts
    kinds: Int32Array = ((num_one > 0) * ONE_STATE + several * SEVERAL_STATES).astype(np.int32)
    return kinds
