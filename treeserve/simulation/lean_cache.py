"""The cache of a lean engine: runs of tokens, least recently used first."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from treeserve.simulation.runs import Run


class LeanCache:
    """Runs that are in use are pinned; others leave where there is no room for all."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens
        self._held: OrderedDict[int, int] = OrderedDict()
        self._pins: dict[int, int] = {}
        self.num_tokens = 0
        self.num_pinned_tokens = 0

    def num_missing(self, runs: Iterable[Run]) -> int:
        """Tokens of a prompt after those that are held."""
        missing = 0
        for run in runs:
            if missing or (run.num_tokens and run.key not in self._held):
                missing += run.num_tokens
        return missing

    def pin(self, runs: Sequence[Run]) -> None:
        """A prompt is in use; what was missing is held from now on."""
        for run in runs:
            pins = self._pins.get(run.key, 0)
            self._pins[run.key] = pins + 1
            if not pins:
                self.num_pinned_tokens += run.num_tokens
            self._hold(run)

    def unpin(self, runs: Sequence[Run]) -> None:
        """A prompt that was pinned is in use no more."""
        # The last one first: what follows a run has to leave before it.
        for run in reversed(runs):
            if self._pins[run.key] > 1:
                self._pins[run.key] -= 1
            else:
                del self._pins[run.key]
                self.num_pinned_tokens -= run.num_tokens
            self._held.move_to_end(run.key)

    def hold(self, run: Run) -> None:
        """What a sample drew, before its prompt is unpinned."""
        if run.num_tokens:
            self._hold(run)

    def evict(self, num_live: int) -> None:
        """Makes room for so many tokens besides."""
        while (
            self.num_tokens + num_live > self._capacity and self.num_tokens > self.num_pinned_tokens
        ):
            key, num_tokens = next(iter(self._held.items()))
            if key in self._pins:
                self._held.move_to_end(key)
            else:
                del self._held[key]
                self.num_tokens -= num_tokens

    def _hold(self, run: Run) -> None:
        if run.key not in self._held:
            self._held[run.key] = run.num_tokens
            self.num_tokens += run.num_tokens
