"""Folds a step back: what it computed, what it drew, and who ends with that."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from treeserve.scheduler.awaiting import Awaiting
from treeserve.scheduler.flight import InFlight
from treeserve.scheduler.live import LiveSample
from treeserve.scheduler.queue.waiting_queue import WaitingQueue
from treeserve.scheduler.rows import DecodeRows
from treeserve.scheduler.step import Int32Array, unread_token
from treeserve.scheduler.tree.radix_tree import RadixTree


class Ended(NamedTuple):
    """A sample drew its last token."""

    draw_index: int
    sample: LiveSample
    reason: str


class Fold:
    """Folds a step back at once, or in two halves: `assume`, and `read` once it has run.

    What it assumes is all that does not depend on which tokens are drawn. A token that nobody has
    read stands as `unread_token(draw index)` at the end of its sample's tail and in its row.
    """

    def __init__(
        self, tree: RadixTree, rows: DecodeRows, awaiting: Awaiting, queue: WaitingQueue
    ) -> None:
        self._tree = tree
        self._rows = rows
        self._awaiting = awaiting
        self._queue = queue

    def whole(self, flight: InFlight, tokens: Int32Array) -> tuple[list[Ended], frozenset[int]]:
        """Every drawing sample gets its token; as `read`, and no draw is lost."""
        self._mark_computed(flight)
        if flight.encoded is not None:
            self._charge(flight, {})
            return [], frozenset()
        ended = []
        for index, (sample, token) in enumerate(zip(flight.drawing, tokens.tolist(), strict=True)):
            reason = sample.append(token)
            if reason is not None:
                ended.append(Ended(index, sample, reason))
        self._rows.advance(tokens[: len(flight.samples)])
        self._join_rows(flight)
        self._charge(flight, flight.num_decoding_by_tenant)
        return ended, frozenset()

    def assume(self, flight: InFlight) -> None:
        """Every drawing sample that has not ended since has one token more, whatever it is.

        Those for which it is the last one have no row after that, but hold their memory.
        """
        self._mark_computed(flight)
        if flight.encoded is not None:
            self._charge(flight, {})
            return
        # Rows have moved where samples ended that this step still computes.
        self._charge(flight, self._rows.num_by_tenant)
        tokens = np.empty(len(self._rows), dtype=np.int32)
        for index, sample in enumerate(flight.samples):
            if sample.row is not None:
                tokens[sample.row] = unread_token(index)
                sample.tail.tokens.append(unread_token(index))
        self._rows.advance(tokens)
        for index, sample in enumerate(flight.first_drawing, len(flight.samples)):
            sample.tail.tokens.append(unread_token(index))
        self._join_rows(flight)
        for sample in [s for s in self._rows.samples if s.tail.is_full]:
            self._rows.rest(sample)

    def read(self, flight: InFlight, tokens: Int32Array) -> tuple[list[Ended], frozenset[int]]:
        """The values of the tokens of a step that was assumed.

        Returns:
            Who ends with them, in the order of draws, and draws whose samples are gone.
        """
        ended, lost = [], []
        self._rows.read(tokens)
        for index, (sample, token) in enumerate(zip(flight.drawing, tokens.tolist(), strict=True)):
            if sample.row is None and sample not in self._rows.resting:
                lost.append(index)
                continue
            reason = sample.read(token)
            if reason is not None:
                ended.append(Ended(index, sample, reason))
        return ended, frozenset(lost)

    def _mark_computed(self, flight: InFlight) -> None:
        for claim in flight.claims:
            segment = claim.segment
            self._tree.mark_computed(segment, claim.computed_end)
            start, end = claim.first_position + claim.start, claim.first_position + claim.end
            if segment is flight.encoded:
                claim.request.num_encoded_tokens += claim.end - claim.start
            else:
                claim.request.count_computed(start, end)
        for request, start, end in flight.recomputed:
            request.count_computed(start, end)
        for request, positions in flight.scored:
            assert request.scoring is not None
            request.scoring.take(positions)

    def _join_rows(self, flight: InFlight) -> None:
        for sample in flight.first_drawing:
            self._awaiting.leave(sample)
            self._rows.join(sample)
            sample.request.settle()

    def _charge(self, flight: InFlight, num_decoding_by_tenant: Mapping[str, int]) -> None:
        for claim in flight.claims:
            self._queue.charge(claim.request.tenant, claim.end - claim.start)
        for request, start, end in flight.recomputed:
            self._queue.charge(request.tenant, end - start)
        for sample in flight.first_drawing:
            self._queue.charge(sample.request.tenant, 1)
        for tenant, num_drawn in num_decoding_by_tenant.items():
            self._queue.charge(tenant, num_drawn)
