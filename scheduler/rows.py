"""The rows of samples that decode: one each, in arrays that change little from step to step."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from treeserve.scheduler.live import LiveSample
from treeserve.scheduler.step import NO_SLOT, Int32Array, SampleKey


class DecodeRows:
    """Row i is the last drawn token of `samples[i]`, whose `row` is i.

    A sample that leaves gives its row to the last one, so the others keep theirs. One whose last
    token is drawn and not yet read rests: it has no row, and is still there.
    """

    def __init__(self, max_rows: int, page_size: int) -> None:
        self._page_size = page_size
        self.samples: list[LiveSample] = []
        self.resting: dict[LiveSample, None] = {}
        self.num_by_tenant: Counter[str] = Counter()
        """Of the rows."""
        self._keys: tuple[SampleKey, ...] | None = ()
        self._token_ids = np.zeros(max_rows, dtype=np.int32)
        self._positions = np.zeros(max_rows, dtype=np.int32)
        self._slots = np.zeros(max_rows, dtype=np.int32)
        self._shifts = np.zeros(max_rows, dtype=np.int32)
        self._num_shifted = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def token_ids(self) -> Int32Array:
        """[num_rows]"""
        return self._token_ids[: len(self.samples)]

    @property
    def positions(self) -> Int32Array:
        """[num_rows]"""
        return self._positions[: len(self.samples)]

    @property
    def maybe_model_positions(self) -> Int32Array | None:
        """[num_rows] as of a step; None where they are the positions."""
        if not self._num_shifted:
            return None
        return self.positions + self._shifts[: len(self.samples)]

    @property
    def slots(self) -> Int32Array:
        """[num_rows] where each row's KV goes; NO_SLOT where a page is needed first."""
        return self._slots[: len(self.samples)]

    @property
    def keys(self) -> tuple[SampleKey, ...]:
        """Of all rows; the same object until one joins or leaves."""
        if self._keys is None:
            self._keys = tuple(sample.key for sample in self.samples)
        return self._keys

    def join(self, sample: LiveSample) -> None:
        """A sample that has drawn its first token since its leaf."""
        row = sample.row = len(self.samples)
        self.samples.append(sample)
        self._keys = None
        self.num_by_tenant[sample.request.tenant] += 1
        self._token_ids[row] = sample.tail.tokens[-1]
        self._positions[row] = sample.tail.end_position - 1
        self._slots[row] = NO_SLOT if sample.tail.needs_page else sample.tail.slots[-1]
        self._shifts[row] = sample.shift
        self._num_shifted += sample.shift != 0

    def rest(self, sample: LiveSample) -> None:
        """A sample that has drawn its last token, and nobody knows which."""
        self.leave(sample)
        self.resting[sample] = None

    def leave(self, sample: LiveSample) -> None:
        if sample in self.resting:
            del self.resting[sample]
            return
        row, last = sample.row, len(self.samples) - 1
        assert row is not None, f"{sample.key} has no row"
        moved = self.samples.pop()
        if moved is not sample:
            self.samples[row] = moved
            moved.row = row
            for array in (self._token_ids, self._positions, self._slots, self._shifts):
                array[row] = array[last]
        sample.row = None
        self._keys = None
        self._num_shifted -= sample.shift != 0
        self.num_by_tenant[sample.request.tenant] -= 1
        if not self.num_by_tenant[sample.request.tenant]:
            del self.num_by_tenant[sample.request.tenant]

    def advance(self, token_ids: Int32Array) -> None:
        """Every row drew one more token [num_rows]; the samples' tails hold it already."""
        num_rows = len(self.samples)
        self._token_ids[:num_rows] = token_ids
        self._positions[:num_rows] += 1
        slots = self._slots[:num_rows]
        slots += 1
        slots[slots % self._page_size == 0] = NO_SLOT

    def read(self, token_ids: Int32Array) -> None:
        """What each draw of the step before drew [num_draws], for rows that do not know theirs."""
        rows = np.flatnonzero(self.token_ids < 0)
        self._token_ids[rows] = token_ids[-1 - self._token_ids[rows]]

    def without_slot(self) -> NDArray[np.intp]:
        """The rows whose tails need a page."""
        return np.flatnonzero(self.slots == NO_SLOT)

    def set_slots(self, rows: Sequence[int], slots: Int32Array) -> None:
        self._slots[rows] = slots

    def check(self) -> None:
        """Raises AssertionError unless the arrays say what the samples say."""
        for row, sample in enumerate(self.samples):
            tail = sample.tail
            assert sample.row == row, f"{sample.key} has another row"
            assert tail.tokens[-1] == self._token_ids[row], f"{sample.key}: another token"
            assert tail.end_position - 1 == self._positions[row], f"{sample.key}: moved"
            slot = NO_SLOT if tail.needs_page else tail.slots[-1]
            assert slot == self._slots[row], f"{sample.key}: another slot"
            assert sample.shift == self._shifts[row], f"{sample.key}: another shift"
        num_shifted = sum(sample.shift != 0 for sample in self.samples)
        assert num_shifted == self._num_shifted, "shifted rows are miscounted"
        tenants = Counter(sample.request.tenant for sample in self.samples)
        assert tenants == self.num_by_tenant, "tenants are miscounted"
        assert self.keys == tuple(sample.key for sample in self.samples), "stale keys"
        for sample in self.resting:
            assert sample.row is None, f"{sample.key} rests and has a row"
            assert sample.tail.is_full, f"{sample.key} rests before its last token"
            assert sample.tail.is_unread, f"{sample.key} outlived its last token"
