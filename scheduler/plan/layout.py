"""The layout of a plan: the items in order, cut, with the states of their rows."""

from dataclasses import dataclass

import numpy as np

from treeserve.scheduler.plan.decide import Decisions
from treeserve.scheduler.plan.trie import Readers, Trie
from treeserve.scheduler.step import Int32Array, Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Not yet cut: the shared ones, parents first, groups of modules, then those that one reader
    reads alone."""

    own_runs: Int64Array
    """[num_runs] the run with which each shared item ends"""
    num_groups: int
    """Of modules."""
    alone: Int64Array
    """[num_items - num_shared] the reader of each other item, ascending"""
    starts: Int64Array
    """[num_items] position of the first token"""
    ends: Int64Array
    """[num_items] one after the position of the last"""
    reader_items: Int64Array
    """[num_readers, depth] those of each reader in ascending order, -1 where there are fewer"""

    @property
    def num_shared(self) -> int:
        return len(self.own_runs) + self.num_groups


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """The items, cut where they are long; the pieces of item i are `[firsts[i], firsts[i + 1])`."""

    firsts: Int64Array
    """[num_items + 1]"""
    items: Int64Array
    """[num_pieces]"""
    offsets: Int64Array
    """[num_pieces] tokens of the item before the piece"""
    lengths: Int64Array
    """[num_pieces]"""

    def of_item(self, item: int) -> slice:
        return slice(int(self.firsts[item]), int(self.firsts[item + 1]))


def list_items(trie: Trie, decisions: Decisions, readers: Readers) -> Items:
    """What is read together, and what each reader reads alone beneath that."""
    own_runs = np.flatnonzero(decisions.owns)
    below_starts = np.append(decisions.below_starts, 0)[trie.reader_runs]
    alone_starts = np.where(trie.reader_runs < 0, readers.starts, below_starts)
    alone = np.flatnonzero(readers.ends > alone_starts)
    item_of_run = np.full(len(trie) + 1, -1)
    item_of_run[own_runs] = np.arange(len(own_runs))
    groups = readers.imports.groups
    num_shared = len(own_runs) + len(groups)
    alone_items = np.full(len(readers), -1)
    alone_items[alone] = np.arange(num_shared, num_shared + len(alone))
    lowest_own = np.append(decisions.lowest_own, -1)
    next_own = np.append(lowest_own[trie.parents], -1)
    columns, at = [alone_items], lowest_own[trie.reader_runs]
    for item in range(num_shared - 1, len(own_runs) - 1, -1):
        columns.append(np.full(len(readers), -1))
        columns[-1][groups[item - len(own_runs)].readers] = item
    while (at >= 0).any():
        columns.append(item_of_run[at])
        at = next_own[at]
    return Items(
        own_runs=own_runs,
        num_groups=len(groups),
        alone=alone,
        starts=np.concatenate(
            [
                decisions.item_starts[own_runs],
                np.array([-group.num_tokens for group in groups], dtype=np.int64),
                alone_starts[alone],
            ]
        ),
        ends=np.concatenate(
            [trie.ends[own_runs], np.zeros(len(groups), dtype=np.int64), readers.ends[alone]]
        ),
        reader_items=np.stack(columns[::-1], axis=1),
    )


def cut_items(items: Items, max_tokens: int | None) -> Pieces:
    """Every item into as few pieces as have at most `max_tokens` tokens, all about as long."""
    lengths = items.ends - items.starts
    every = np.arange(len(lengths))
    if max_tokens is None or lengths.max(initial=0) <= max_tokens:
        return Pieces(np.arange(len(lengths) + 1), every, np.zeros_like(lengths), lengths)
    num_pieces = -(-lengths // max_tokens)
    firsts = _starts(num_pieces)
    sources = np.repeat(every, num_pieces)
    ordinals = np.arange(len(sources)) - firsts[sources]
    begins = ordinals * lengths[sources] // num_pieces[sources]
    ends = (ordinals + 1) * lengths[sources] // num_pieces[sources]
    return Pieces(firsts, sources, begins, ends - begins)


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """The rows of each piece and the states of each row, as a plan lists them."""

    item_rows: Int32Array
    item_row_starts: Int32Array
    item_start_positions: Int32Array
    row_states: Int32Array
    row_state_starts: Int32Array


def list_states(items: Items, pieces: Pieces, readers: Readers, positions: Int32Array) -> States:
    """A state for every row and every piece of which it sees any token."""
    table = items.reader_items
    if readers.num_decoding < len(readers):
        table = np.repeat(table, readers.num_rows, axis=0)
    present = table >= 0
    rows, row_pieces = np.nonzero(present)[0], table[present]
    starts = items.starts[pieces.items] + pieces.offsets
    num_pieces = len(starts)
    if num_pieces > len(items.starts):
        rows, row_pieces = _cut_states(rows, row_pieces, pieces)
    if readers.num_decoding < len(readers):
        seen = positions[rows] >= starts[row_pieces]
        rows, row_pieces = rows[seen], row_pieces[seen]
    # Stable sorts of short integers are radix sorts.
    keys = row_pieces.astype(np.int16 if num_pieces < 1 << 15 else np.int64)
    by_piece = np.argsort(keys, kind="stable")
    row_states = np.empty(len(rows), dtype=np.int32)
    row_states[by_piece] = np.arange(len(rows), dtype=np.int32)
    return States(
        item_rows=rows[by_piece].astype(np.int32),
        item_row_starts=_starts(np.bincount(row_pieces, minlength=num_pieces)).astype(np.int32),
        item_start_positions=starts.astype(np.int32),
        row_states=row_states,
        row_state_starts=_starts(np.bincount(rows, minlength=len(positions))).astype(np.int32),
    )


def _cut_states(
    rows: Int64Array, row_items: Int64Array, pieces: Pieces
) -> tuple[Int64Array, Int64Array]:
    num_pieces = np.diff(pieces.firsts)[row_items]
    ends = np.cumsum(num_pieces)
    ordinals = np.arange(num_pieces.sum()) - np.repeat(ends - num_pieces, num_pieces)
    return np.repeat(rows, num_pieces), np.repeat(pieces.firsts[row_items], num_pieces) + ordinals


def _starts(counts: Int64Array) -> Int64Array:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts
