"""The step: what the scheduler decided for one forward pass, as plain data."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]
PlanOrigin: TypeAlias = Literal["rebuilt", "reused"]

NO_SLOT = -1
"""The write slot of a row whose K and V are already stored: the row writes nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class SlotChanges:
    """What a plan's `item_slots` hold that those of the plan before did not.

    Whoever has a copy of them as they were at `since` brings it up to date with these entries
    alone; any other copy must be made anew. The two are compared by identity and mean nothing else.
    """

    since: object | None
    """None: every entry may have changed."""
    state: object
    starts: Int64Array
    """[num_ranges] entries `[starts[i], ends[i])` have been written; ranges may overlap"""
    ends: Int64Array
    """[num_ranges]"""

    def entries(self) -> Int32Array:
        """[num_changed] the entries that have been written, one by one."""
        sizes = self.ends - self.starts
        first = np.repeat(self.starts - (np.cumsum(sizes) - sizes), sizes)
        return (first + np.arange(len(first))).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The step's work items and, for each row, which partial states belong to it.

    Arrays are int32. Ragged lists are in CSR form: list i is `values[starts[i] : starts[i + 1]]`;
    but items' slots have starts and ends, with gaps between them that hold anything, and they are
    good until the next plan is made.

    Work item i: its rows all attend to its KV, which is a run of tokens at consecutive positions
    (item token j sits at position `item_start_positions[i] + j`, in slot
    `item_slots[item_slot_starts[i] + j]`). A row sees an item's token if and only if the token's
    position is not after the row's own (and, in layers with a sliding window, within the window).
    Positions are places in the row's own order, from 0; tokens of modules that it imports come
    before them, at negative ones, wherever the model takes them to stand.

    State s is the attention state of row `item_rows[s]` over the item that lists it there, so
    every (row, item) pair owns one state and nothing is shared. `row_states` lists each row's
    states in item order: the fixed order in which they are merged.
    """

    item_rows: Int32Array
    """[num_states]"""
    item_row_starts: Int32Array
    """[num_items + 1]"""
    item_slots: Int32Array
    """[num_arena_slots]"""
    item_slot_starts: Int32Array
    """[num_items]"""
    item_slot_ends: Int32Array
    """[num_items]"""
    item_start_positions: Int32Array
    """[num_items]"""
    row_states: Int32Array
    """[num_states]"""
    row_state_starts: Int32Array
    """[num_rows + 1]"""
    counts: "PlanCounts"
    slot_changes: SlotChanges | None = None
    """None: nothing is known of the plan before."""

    @property
    def num_items(self) -> int:
        return len(self.item_start_positions)

    @property
    def num_rows(self) -> int:
        return len(self.row_state_starts) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCounts:
    """What the plan did, in numbers. A prompt's rows in the step count as one sharer."""

    num_shared_items: int = 0
    """Items whose rows belong to more than one sharer."""
    num_private_items: int = 0
    """The other items."""
    num_cut_pieces: int = 0
    """Items, of both kinds, beyond those there would be if none had been cut."""
    num_folded_segments: int = 0
    """Shared segments that were read per sharer, since sharing them would not have paid."""
    num_outweighed_segments: int = 0
    """Of those, the ones that would have paid, but not for merging in the step as a whole."""
    num_plain_rows: int = 0
    """Rows that read all their tokens alone."""
    tokens_read: int = 0
    """KV tokens that the items read."""
    tokens_read_flat: int = 0
    """KV tokens that ordinary attention, every sample alone, would have read."""
    num_shared_rows: int = 0
    """Rows of the shared items, added up."""
    num_node_rows: int = 0
    """The same, but an item that is cut counts once."""
    node_rows_log2: tuple[int, ...] = ()
    """How many shared items, cut or not, have 1 row, 2, 3 or 4, 5 to 8, and so on."""
    max_shared_rows: int = 0
    """Rows of the shared item that has most."""
    max_row_states: int = 0
    """States of the row that has most: how deep the sharing goes."""
    max_branches: int = 0
    """Branches and sharers directly beneath the shared segment that has most."""
    num_module_items: int = 0
    """Of the shared items, those of modules that several sets of modules have in common."""
    module_tokens_read: int = 0
    """Of the KV tokens read, those of these items."""
    predicted_cost: float = 0.0
    """By the cost model, in its unit."""
    origin: PlanOrigin = "rebuilt"
    """reused: the last plan, every tail one token longer."""


class SampleKey(NamedTuple):
    """Names a sample."""

    request_id: str
    sample_index: int


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Who draws a next token in a step, and from which logits: entry i of each is draw i.

    A source is an index into the concatenation of the step's computed logits
    (`0 .. len(logits_rows) - 1`, in that order) and the kept-logits table
    (`len(logits_rows) + kept_index`).
    """

    samples: tuple[SampleKey, ...]
    positions: Int32Array
    """[num_draws] the position that each drawn token will have: the prompt's length for the first.
    """
    sources: Int32Array
    """[num_draws]"""

    def __len__(self) -> int:
        return len(self.samples)


def unread_token(draw_index: int) -> int:
    """Stands for a token that is still on the device; its own inverse."""
    return -1 - draw_index


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPart:
    """Whose prompt tokens some of a step's scores are of."""

    request_id: str
    positions: Int32Array
    """[num_tokens] of the tokens in the prompt, ascending"""
    scores: Int32Array
    """[num_tokens] the entry of `Scores` that is each token's"""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Prompt tokens of which it is asked how likely they are after the tokens before them.

    Entry i is the token `targets[i]` by the logits of row `rows[i]`; several prompts may need it.
    """

    rows: Int32Array
    """[num_scores] ascending"""
    targets: Int32Array
    """[num_scores]"""
    num_top: int
    """Likeliest tokens to tell of beside each target."""
    parts: tuple[ScoredPart, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """The logits at `logits_index` (into `Step.logits_rows`) go into the kept-logits table."""

    logits_index: int
    kept_index: int


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Rows `0 .. num_rows - 1` of one forward pass, where their KV goes, and what is drawn after.

    A step may have no rows at all and draw from kept logits only. Keeps are carried out before
    draws, so a draw may name a table entry that this very step fills.
    """

    number: int
    token_ids: Int32Array
    """[num_rows]; `unread_token(i)` where it is what draw i of the step before drew, and nobody has
    read that yet"""
    positions: Int32Array
    """[num_rows] the place of each among the tokens that it follows: who sees what"""
    write_slots: Int32Array
    """[num_rows], NO_SLOT where nothing is written"""
    logits_rows: Int32Array
    """[num_logits] ascending: the rows that reach the output head"""
    keeps: tuple[Keep, ...]
    draws: Draws
    plan: Plan
    num_prompt_rows: int
    """Rows that compute prompt tokens; the rest are one per decoding sample."""
    scores: Scores | None = None
    """None: nobody asks. What they need of the output head is not among `logits_rows`."""
    maybe_model_positions: Int32Array | None = None
    """As `model_positions`; None where no row differs from `positions`."""

    @property
    def model_positions(self) -> Int32Array:
        """[num_rows] where the model takes each token to stand, which modules lay out with gaps"""
        model_positions = self.maybe_model_positions
        return self.positions if model_positions is None else model_positions

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)
