"""Tiles hold every state of every item once, in shapes that fit, and say which rows are merged."""

import numpy as np
import pytest

from treeserve.kernels.tiles import (
    NUM_SHAPES,
    ONE_STATE,
    SEVERAL_STATES,
    TILE_PAIRS,
    cut_rows,
    kinds_of_rows,
    rows_of_shapes,
)


def starts_of(lengths: list[int]) -> np.ndarray:
    return np.cumsum([0, *lengths]).astype(np.int32)


@pytest.mark.parametrize("group", [1, 2, 3, 7, 12, 16, 32, 71, 200])
def test_every_state_is_in_one_tile_of_the_smallest_shape_that_holds_it(group):
    shape_rows = rows_of_shapes(group, 128)
    lengths = [1, 0, 2, 16, 17, 64, 65, 128, 129, 1000]
    starts = starts_of(lengths)
    tiles = cut_rows(starts, np.arange(len(lengths)), shape_rows)
    seen = [
        s for a, b in zip(tiles.state_starts, tiles.state_ends, strict=True) for s in range(a, b)
    ]
    assert sorted(seen) == list(range(starts[-1]))
    for shape in range(NUM_SHAPES):
        for i in range(tiles.shape_starts[shape], tiles.shape_starts[shape + 1]):
            rows = tiles.state_ends[i] - tiles.state_starts[i]
            assert rows <= shape_rows[shape]
            assert all(rows > smaller for smaller in shape_rows[:shape])
            item = tiles.items[i]
            assert starts[item] <= tiles.state_starts[i] < tiles.state_ends[i] <= starts[item + 1]
    assert tiles.shape_starts[-1] == len(tiles.items)
    assert tiles.shape_starts[tiles.widest_shape] < len(tiles.items)


def test_long_items_come_first_in_their_shape():
    tiles = cut_rows(starts_of([1, 1, 1, 20, 20]), np.array([5, 900, 30, 7, 8]), (1, 16, 64, 128))
    assert tiles.items.tolist() == [1, 2, 0, 4, 3]


def test_no_items():
    tiles = cut_rows(starts_of([]), np.zeros(0, dtype=np.int32), TILE_PAIRS)
    assert tiles.shape_starts.tolist() == [0] * (NUM_SHAPES + 1)
    assert tiles.widest_shape == 0


@pytest.mark.parametrize("max_pairs", [16, 32, 64, 128])
def test_a_tile_never_has_more_pairs_than_fit(max_pairs):
    for group in range(1, max_pairs + 1):
        rows = rows_of_shapes(group, max_pairs)
        assert list(rows) == sorted(rows)
        assert 0 < rows[-1] * group <= max_pairs


def test_kinds_of_rows():
    """Row 0 has one state, row 1 has two."""
    item_rows, row_state_starts = np.array([0, 1, 1]), np.array([0, 1, 3])
    tiles = cut_rows(starts_of([2, 1]), np.array([1, 1]), (1, 1, 1, 1))
    order = np.argsort(tiles.state_starts)
    kinds = kinds_of_rows(tiles, item_rows, row_state_starts)[order]
    assert kinds.tolist() == [ONE_STATE, SEVERAL_STATES, SEVERAL_STATES]
    together = cut_rows(starts_of([2, 1]), np.array([1, 1]), (1, 2, 2, 2))
    kinds = kinds_of_rows(together, item_rows, row_state_starts)
    assert sorted(kinds.tolist()) == [SEVERAL_STATES, ONE_STATE + SEVERAL_STATES]
