"""What the engine reports of each step, added up."""

import threading
from collections import Counter
from collections.abc import Iterator

from prometheus_client import Metric

from treeserve.metrics import declarations as declared
from treeserve.metrics.cells import Distribution, Number
from treeserve.step_numbers import StepNumbers

MOST_PENDING = 64
"""Steps that are added up together; fewer at a scrape."""


class StepMetrics:
    """Told of every step in the engine's thread; asked in any, and then every step counts.

    A step costs some microseconds: that is why these are not prometheus_client's own counters.
    """

    def __init__(self) -> None:
        self.kv_token_bytes = 0
        """Of K and V over all layers."""
        self.sharing_is_off = False
        self._lock = threading.Lock()
        self._pending: list[StepNumbers] = []
        self._make_times()
        self._make_sharing()
        self._make_gauges()
        self._make_counters()
        self._cells: list[Number | Distribution] = [
            cell for cell in vars(self).values() if isinstance(cell, Number | Distribution)
        ]

    def observe(self, numbers: StepNumbers) -> None:
        """Count one step; one without rows and draws only brings what happened beside it."""
        with self._lock:
            self._pending.append(numbers)
            if len(self._pending) == MOST_PENDING:
                self._fold()

    def families(self) -> Iterator[Metric]:
        with self._lock:
            self._fold()
            families = [cell.family() for cell in self._cells]
        yield from families

    def _make_times(self) -> None:
        self._step_seconds = Distribution(declared.STEP_SECONDS)
        self._model_seconds = Distribution(declared.MODEL_SECONDS)
        self._schedule_seconds = Distribution(declared.SCHEDULE_SECONDS)
        self._plan_seconds = Distribution(declared.PLAN_SECONDS)
        self._hidden_seconds = Number(declared.HIDDEN_SECONDS)
        self._predicted_seconds = Number(declared.PREDICTED_SECONDS)
        self._actual_seconds = Number(declared.ACTUAL_SECONDS)
        self._actual_ratio = Distribution(declared.ACTUAL_RATIO)

    def _make_sharing(self) -> None:
        self._kv_read = Number(declared.KV_READ)
        self._kv_flat = Number(declared.KV_FLAT)
        self._kv_read_bytes = Number(declared.KV_READ_BYTES)
        self._kv_flat_bytes = Number(declared.KV_FLAT_BYTES)
        self._outcomes = Number(declared.OUTCOMES)
        self._origins = Number(declared.ORIGINS)
        self._items = Number(declared.ITEMS)
        self._shared_items = Number(declared.SHARED_ITEMS)
        self._cut_pieces = Number(declared.CUT_PIECES)
        self._folded = Number(declared.FOLDED)
        self._plain_rows = Number(declared.PLAIN_ROWS)
        self._node_rows = Distribution(declared.NODE_ROWS)
        self._row_states = Distribution(declared.ROW_STATES)
        self._fan_out = Distribution(declared.FAN_OUT)

    def _make_gauges(self) -> None:
        self._pages_used = Number(declared.PAGES_USED)
        self._pages_cached = Number(declared.PAGES_CACHED)
        self._pages_reserved = Number(declared.PAGES_RESERVED)
        self._pages_capacity = Number(declared.PAGES_CAPACITY)
        self._kv_usage = Number(declared.KV_USAGE)
        self._retained = Number(declared.RETAINED)
        self._running = Number(declared.RUNNING)
        self._awaiting = Number(declared.AWAITING)
        self._waiting = Number(declared.WAITING)
        self._startable = Number(declared.STARTABLE)

    def _make_counters(self) -> None:
        self._completion_tokens = Number(declared.COMPLETION_TOKENS)
        self._rows = Number(declared.ROWS)
        self._failed = Number(declared.FAILED_STEPS)
        self._evicted = Number(declared.EVICTED)
        self._preempted = Number(declared.PREEMPTED)
        self._recomputed = Number(declared.RECOMPUTED)
        self._forked = Number(declared.FORKED)
        self._expired = Number(declared.EXPIRED)

    def _fold(self) -> None:
        """Adds up the pending steps, a cell at a time: far cheaper than a step at a time."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        self._set_gauges(pending[-1])
        self._count_events(pending)
        computed = [numbers for numbers in pending if numbers.num_rows or numbers.num_drawn]
        self._time(computed)
        self._count(computed)
        self._count_sharing([numbers for numbers in computed if numbers.num_rows])

    def _set_gauges(self, numbers: StepNumbers) -> None:
        self._pages_used.set(numbers.used_pages)
        self._pages_cached.set(numbers.cached_pages)
        self._pages_reserved.set(numbers.reserved_pages)
        self._pages_capacity.set(numbers.total_pages)
        in_use = numbers.used_pages - numbers.cached_pages
        self._kv_usage.set(in_use / max(1, numbers.total_pages))
        self._retained.set(numbers.retained_tokens)
        self._running.set(numbers.running_samples)
        self._awaiting.set(numbers.awaiting_samples)
        self._waiting.set(numbers.waiting_requests)
        self._startable.set(numbers.startable_requests)

    def _count_events(self, steps: list[StepNumbers]) -> None:
        num_cleared = sum([n.cleared_tokens for n in steps])
        self._evicted.add(sum([n.evicted_tokens for n in steps]) - num_cleared, ("room",))
        self._evicted.add(num_cleared, ("clear",))
        self._preempted.add(sum([n.preempted_samples for n in steps]))
        self._recomputed.add(sum([n.recomputed_tokens for n in steps]))
        self._forked.add(sum([n.forked_requests for n in steps]))
        self._expired.add(sum([n.expired_requests for n in steps]))
        self._failed.add(sum([n.failed_steps for n in steps]))

    def _time(self, steps: list[StepNumbers]) -> None:
        self._step_seconds.observe_all(
            [n.schedule_seconds - n.hidden_seconds + n.model_seconds for n in steps]
        )
        self._plan_seconds.observe_all([n.plan_seconds for n in steps])
        self._schedule_seconds.observe_all([n.schedule_seconds for n in steps])
        self._model_seconds.observe_all([n.model_seconds for n in steps])
        self._hidden_seconds.add(sum([n.hidden_seconds for n in steps]))
        predicted = [n for n in steps if n.predicted_seconds > 0]
        self._predicted_seconds.add(sum([n.predicted_seconds for n in predicted]))
        self._actual_seconds.add(sum([n.actual_seconds for n in predicted]))
        self._actual_ratio.observe_all([n.actual_seconds / n.predicted_seconds for n in predicted])

    def _count(self, steps: list[StepNumbers]) -> None:
        num_prompt = sum([n.num_prompt_rows for n in steps])
        self._rows.add(num_prompt, ("prompt",))
        self._rows.add(sum([n.num_rows for n in steps]) - num_prompt, ("decode",))
        self._completion_tokens.add(sum([n.num_drawn for n in steps]))
        num_read = sum([n.kv_tokens_read for n in steps])
        num_flat = sum([n.kv_tokens_read_flat for n in steps])
        self._kv_read.add(num_read)
        self._kv_flat.add(num_flat)
        self._kv_read_bytes.add(num_read * self.kv_token_bytes)
        self._kv_flat_bytes.add(num_flat * self.kv_token_bytes)
        self._items.add(sum([n.work_items for n in steps]))

    def _count_sharing(self, steps: list[StepNumbers]) -> None:
        num_reused = sum([n.plan_is_reused for n in steps])
        self._origins.add(num_reused, ("reused",))
        self._origins.add(len(steps) - num_reused, ("rebuilt",))
        for outcome, num_steps in Counter(map(self._outcome, steps)).items():
            self._outcomes.add(num_steps, (outcome,))
        self._plain_rows.add(sum([n.plain_rows for n in steps]))
        self._row_states.observe_all([n.max_row_states for n in steps])
        self._fan_out.observe_all([n.max_branches for n in steps])
        self._shared_items.add(sum([n.shared_items for n in steps]))
        for bins, num_steps in Counter([n.node_rows_log2 for n in steps]).items():
            self._node_rows.add_counts([count * num_steps for count in bins])
        self._node_rows.add_total(sum([n.node_rows for n in steps]))
        self._cut_pieces.add(sum([n.cut_pieces for n in steps]))
        num_outweighed = sum([n.outweighed_segments for n in steps])
        num_folded = sum([n.folded_segments for n in steps])
        self._folded.add(num_folded - num_outweighed, ("too_small",))
        self._folded.add(num_outweighed, ("outweighed",))

    def _outcome(self, numbers: StepNumbers) -> str:
        if numbers.shared_items:
            return "shared"
        if self.sharing_is_off:
            return "off"
        if not numbers.folded_segments:
            return "nothing_in_common"
        return "outweighed" if numbers.outweighed_segments else "too_small"
