"""What FlashInfer and FlexAttention are told of a tree, against the tree itself."""

import torch
from attention.plans import Item, make_step

from treeserve.bench.attention.paths import cascade_tables, pack_tree, request_table, tree_paths

# Rows 0 and 2 share slots 5, 6 beneath the trunk 8, 7, 9; row 1 has the trunk and slot 1.
STEP = make_step(
    [
        Item([0, 1, 2], [8, 7, 9], 0),
        Item([2, 0], [5, 6], 3),
        Item([0], [2], 5),
        Item([2], [3, 4], 5),
        Item([1], [1], 3),
    ],
    positions=[5, 3, 6],
    write_slots=[2, 1, 4],
)


def test_paths_come_depth_first_in_order_of_position():
    paths = tree_paths(STEP)
    assert paths.order.tolist() == [1, 0, 2]
    assert [path.tolist() for path in paths.slots] == [
        [8, 7, 9, 1],
        [8, 7, 9, 5, 6, 2],
        [8, 7, 9, 5, 6, 3, 4],
    ]


def test_tokens_after_a_rows_own_are_not_in_its_path():
    step = make_step([Item([0], [3, 4, 5], 0)], positions=[1], write_slots=[4])
    assert [path.tolist() for path in tree_paths(step).slots] == [[3, 4]]


def test_a_packed_tree_has_every_token_once_and_the_rows_that_see_it():
    packed = pack_tree(tree_paths(STEP))
    assert packed.slots.tolist() == [8, 7, 9, 1, 5, 6, 2, 3, 4]
    assert packed.first_rows.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert packed.end_rows.tolist() == [3, 3, 3, 1, 3, 3, 2, 3, 3]


def test_a_request_table_lists_every_path():
    table = request_table(tree_paths(STEP))
    assert table.row_starts.tolist() == [0, 1, 2, 3]
    assert table.page_starts.tolist() == [0, 4, 10, 17]
    assert table.pages.tolist() == [8, 7, 9, 1, 8, 7, 9, 5, 6, 2, 8, 7, 9, 5, 6, 3, 4]
    assert table.last_page_lengths.tolist() == [1, 1, 1]


def test_a_cascade_has_a_table_for_each_level_and_nothing_where_a_path_has_ended():
    trunk, branches, leaves = cascade_tables(tree_paths(STEP))
    assert trunk.row_starts.tolist() == [0, 3]
    assert trunk.pages.tolist() == [8, 7, 9]
    assert branches.row_starts.tolist() == [0, 1, 3]
    assert branches.page_starts.tolist() == [0, 1, 3]
    assert branches.pages.tolist() == [1, 5, 6]
    assert leaves.row_starts.tolist() == [0, 1, 2, 3]
    assert leaves.page_starts.tolist() == [0, 0, 1, 3]
    assert leaves.pages.tolist() == [2, 3, 4]
    for table in (trunk, branches, leaves):
        assert all(x.dtype.name == "int32" for x in (table.row_starts, table.page_starts))
    assert torch.from_numpy(leaves.pages).dtype == torch.int32
