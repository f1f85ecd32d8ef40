"""The kept-logits table: which entry holds the logits after which segment's last token."""

from collections import OrderedDict
from collections.abc import Collection

from treeserve.scheduler.tree.segment import Segment


class KeptLogits:
    """An entry is free, or belongs to one segment whose `kept_index` names it."""

    def __init__(self, num_entries: int) -> None:
        self.num_entries = num_entries
        self._free = list(range(num_entries - 1, -1, -1))
        self._order: OrderedDict[Segment, int] = OrderedDict()

    def use(self, segment: Segment) -> int:
        """The segment's entry, from now on the most recently used."""
        self._order.move_to_end(segment)
        return self._order[segment]

    def keep(self, segment: Segment, locked: Collection[int]) -> int | None:
        """An entry for the segment, taken from the least recently used if none is free.

        Entries in `locked` stay as they are; None when there is no other.
        """
        if segment.kept_index is not None:
            raise ValueError(f"the logits after {segment} are kept already")
        if not self._free:
            victim = next((s for s, index in self._order.items() if index not in locked), None)
            if victim is None:
                return None
            self.forget(victim)
        segment.kept_index = self._free.pop()
        self._order[segment] = segment.kept_index
        return segment.kept_index

    def forget(self, segment: Segment) -> None:
        """Frees the segment's entry, if it has one."""
        if segment.kept_index is not None:
            del self._order[segment]
            self._free.append(segment.kept_index)
            segment.kept_index = None

    def check(self, segments: Collection[Segment]) -> None:
        """Raises AssertionError unless exactly these live segments own exactly the used entries."""
        owners = {s.kept_index: s for s in segments if s.kept_index is not None}
        assert owners == {index: s for s, index in self._order.items()}, "entries and owners differ"
        indices = sorted([*self._free, *self._order.values()])
        assert indices == list(range(self.num_entries)), "an entry is lost or owned twice"
