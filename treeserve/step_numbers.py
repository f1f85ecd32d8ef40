"""The engine after one step, and the step itself, in plain numbers for metrics."""

from typing import NamedTuple


class StepNumbers(NamedTuple):
    """What somebody who watches the engine is told after each step.

    A tuple, since one is made in every step and a frozen dataclass takes four times as long.

    A step that failed, or was not needed since all that was left was aborted, has no rows. What is
    counted beside the step itself is counted since the step before.
    """

    running_samples: int
    waiting_requests: int
    used_pages: int
    """Held by anything, the cache among it."""
    cached_pages: int
    """Of those, the ones that only the tree holds and that can be evicted."""
    total_pages: int
    evicted_tokens: int
    """For all reasons."""
    cleared_tokens: int = 0
    """Of those, the ones that were evicted because somebody cleared the cache."""
    awaiting_samples: int = 0
    """Of the running ones, those whose context is not computed yet."""
    startable_requests: int = 0
    """Admitted requests of which samples wait for memory."""
    reserved_pages: int = 0
    """Promised to running samples and not yet taken."""
    retained_tokens: int = 0
    """Cached tokens that a retention favours."""
    preempted_samples: int = 0
    forked_requests: int = 0
    expired_requests: int = 0
    """That their deadlines ended."""
    recomputed_tokens: int = 0
    """Of requests that ended."""
    failed_steps: int = 0
    num_rows: int = 0
    num_prompt_rows: int = 0
    num_drawn: int = 0
    """Tokens that samples drew; what was drawn for one that had ended by then is not among them."""
    work_items: int = 0
    shared_items: int = 0
    cut_pieces: int = 0
    """Items beyond those there would be if none had been cut."""
    folded_segments: int = 0
    outweighed_segments: int = 0
    """Of those, the ones that would have paid but for merging in the step as a whole."""
    plain_rows: int = 0
    """Rows that read all their tokens alone."""
    node_rows: int = 0
    """Rows beneath the nodes that are read once for all of them, added up."""
    node_rows_log2: tuple[int, ...] = ()
    """How many of these nodes have 1 row, 2, up to 4, up to 8, and so on."""
    max_row_states: int = 0
    """States of the row that has most: how deep the sharing goes."""
    max_branches: int = 0
    """Branches and sharers directly beneath the shared segment that has most."""
    plan_is_reused: bool = False
    """The plan is the last one, every tail one token longer."""
    kv_tokens_read: int = 0
    kv_tokens_read_flat: int = 0
    plan_seconds: float = 0.0
    schedule_seconds: float = 0.0
    """Deciding the step, the plan among it, and folding its tokens back."""
    hidden_seconds: float = 0.0
    """Of `schedule_seconds`, those in which the device worked on another step."""
    model_seconds: float = 0.0
    """From its launch to its tokens; or, if the step before was read later than that, from then."""
    predicted_seconds: float = 0.0
    """What the scheduler expected `actual_seconds` to be; 0: it had no expectation."""
    actual_seconds: float = 0.0
    """From the step's decision, or the result of the one before if that is later, to its result."""
