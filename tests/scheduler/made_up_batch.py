"""Steps made up by hand: segments, samples that decode after them, and prompts."""

from dataclasses import dataclass

import numpy as np

from treeserve.scheduler.plan.check import check_plan
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.planner import Planner
from treeserve.scheduler.plan.trie import Chunk
from treeserve.scheduler.step import Plan
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.segment import Root, Segment

FREE_SHARING = CostModel(token_cost=1, state_cost=0, item_cost=0)


@dataclass(frozen=True, eq=False)
class Sample:
    leaf: Segment
    tail: Tail


@dataclass(frozen=True, eq=False)
class Reader:
    """A sample or a chunk, for the slow truth."""

    path: tuple[Segment, ...]
    end_position: int
    num_rows: int


class Batch:
    """Segments made up with slots of their own, samples that decode after them, and prompts."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.prompts: list[tuple[Segment, int, int]] = []
        self._num_slots = 0

    def segment(self, parent: Segment | None, length: int) -> Segment:
        return Segment(
            parent=parent or Root("", np.zeros(0, dtype=np.int32)),
            tokens=np.zeros(length, dtype=np.int32),
            slots=self._slots(length),
            pages=np.zeros(0, dtype=np.int32),
            start_position=parent.end_position if parent else 0,
            num_computed=length,
            serial=self._num_slots,
        )

    def decode(self, leaf: Segment, tail: int = 1) -> None:
        drawn = Tail(leaf.end_position, 1000, 0)
        drawn.tokens = [0] * tail
        drawn.page_slots = self._slots(tail)
        self.samples.append(Sample(leaf, drawn))

    def prompt(self, leaf: Segment, *, end: int, num_rows: int) -> None:
        self.prompts.append((leaf, end, num_rows))

    def chunks(self) -> list[Chunk]:
        chunks, row = [], len(self.samples)
        for leaf, end, num_rows in self.prompts:
            chunks.append(Chunk(leaf, row, num_rows, end))
            row += num_rows
        return chunks

    def readers(self) -> list[Reader]:
        readers = [Reader(path_of(s.leaf), s.tail.end_position, 1) for s in self.samples]
        for leaf, end, num_rows in self.prompts:
            path = tuple(s for s in path_of(leaf) if s.start_position < end)
            readers.append(Reader(path, end, num_rows))
        return readers

    def positions(self) -> np.ndarray:
        runs = [np.arange(r.end_position - r.num_rows, r.end_position) for r in self.readers()]
        return np.concatenate([np.zeros(0), *runs]).astype(np.int32)

    def plan(self, cost_model: CostModel = FREE_SHARING, sharing: str = "on") -> Plan:
        plan = Planner(cost_model, sharing).plan(self.samples, self.chunks(), self.positions())
        check_plan(plan, self.samples, self.chunks(), self.positions())
        return plan

    def flat(self, cost_model: CostModel = FREE_SHARING) -> Plan:
        return self.plan(cost_model, "off")

    def _slots(self, length: int) -> np.ndarray:
        self._num_slots += length
        return np.arange(self._num_slots - length, self._num_slots, dtype=np.int32)


def path_of(leaf: Segment) -> tuple[Segment, ...]:
    path = []
    while leaf.parent is not None:
        path.append(leaf)
        leaf = leaf.parent
    return tuple(reversed(path))


def items(plan: Plan) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start position, tokens, rows) of each item."""
    rows = np.split(plan.item_rows, plan.item_row_starts[1:-1])
    lengths = plan.item_slot_ends - plan.item_slot_starts
    return [
        (int(start), int(length), tuple(r.tolist()))
        for start, length, r in zip(plan.item_start_positions, lengths, rows, strict=True)
    ]
