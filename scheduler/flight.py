"""Steps on their way: whom their results belong to, and which of them are assumed already."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from treeserve.scheduler.live import LiveRequest, LiveSample
from treeserve.scheduler.plan.check import check_plan
from treeserve.scheduler.plan.trie import Chunk
from treeserve.scheduler.step import Int32Array, Step, unread_token
from treeserve.scheduler.tree.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """In this step the request computes tokens `[start, end)` of a pending segment."""

    request: LiveRequest
    segment: Segment
    start: int
    end: int
    first_position: int
    """Of the segment when this was decided: it can be split where it is computed before it is
    folded back."""

    @property
    def computed_end(self) -> int:
        """Of the segment as it is now."""
        return self.first_position + self.end - self.segment.start_position


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """A step, and whom its results belong to."""

    step: Step
    samples: tuple[LiveSample, ...]
    """Those that decode: sample i has row i and draw i."""
    num_decoding_by_tenant: Mapping[str, int]
    chunks: tuple[Chunk, ...]
    claims: tuple[Claim, ...]
    recomputed: tuple[tuple[LiveRequest, int, int], ...]
    """(request, start, end): positions that are computed once more, for their logits alone."""
    scored: tuple[tuple[LiveRequest, Int32Array], ...]
    """(request, positions [num_rows]) of rows that say how likely its next prompt token is."""
    first_drawing: tuple[LiveSample, ...]
    """Those that draw after their leaf, in the order of the remaining draws."""
    kept: tuple[Segment, ...]
    """Segments whose logits this step keeps."""
    plan_seconds: float
    encoded: Segment | None = None
    """The module of which this step encodes a part, and does nothing else."""

    @property
    def drawing(self) -> tuple[LiveSample, ...]:
        """Whose draw i is."""
        return (*self.samples, *self.first_drawing)

    def requests(self) -> list[LiveRequest]:
        """Those with rows or draws in the step, in order and once each."""
        owners = [sample.request for sample in self.samples]
        owners += [claim.request for claim in self.claims]
        owners += [request for request, _, _ in self.recomputed]
        owners += [request for request, _ in self.scored]
        owners += [sample.request for sample in self.first_drawing]
        return list(dict.fromkeys(owners))


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """A step that was decided, when, and in how many seconds."""

    in_flight: InFlight
    at: float
    schedule_seconds: float
    is_behind: bool
    """Whether the step before it was still on its way."""


@dataclass(frozen=True, slots=True, eq=False)
class Landing:
    """A step whose tokens have been read."""

    in_flight: InFlight
    was_assumed: bool
    seconds: float
    """That the device needed for it, by the clock."""
    schedule_seconds: float
    was_behind: bool
    """Whether the step before it was on its way when it was decided."""


class Flights:
    """At most two: one that is assumed, and after it one that was decided and is not."""

    def __init__(self) -> None:
        self.assumed: Departure | None = None
        """Everything of it is folded back but the values of its tokens."""
        self.decided: Departure | None = None
        self._landed_at = -inf

    def depart(self, in_flight: InFlight, at: float, schedule_seconds: float) -> None:
        is_behind = self.assumed is not None
        self.decided = Departure(in_flight, at, schedule_seconds, is_behind)

    def holds(self, step: Step) -> bool:
        return _is_of(self.assumed, step) or _is_of(self.decided, step)

    def is_assumed(self, step: Step) -> bool:
        return _is_of(self.assumed, step)

    def is_behind(self, step: Step) -> bool:
        """Whether it was decided on top of a step that was assumed, and is not assumed itself."""
        return self.decided is not None and _is_of(self.decided, step) and self.decided.is_behind

    def assume(self, step: Step) -> InFlight:
        """Raises ValueError unless it is the only one on its way, and not yet assumed."""
        departure = self.decided
        if departure is None or departure.in_flight.step is not step:
            raise ValueError(f"step {step.number} is not in flight, or is assumed already")
        self._require_first(step)
        self.assumed, self.decided = departure, None
        return departure.in_flight

    def land(self, step: Step, now: float) -> "Landing":
        """Takes out the first one that is on its way; raises ValueError if `step` is not that."""
        was_assumed = _is_of(self.assumed, step)
        if not was_assumed:
            self._require_first(step)
        departure = self._take(step)
        # The device starts on it when it is through with the step before.
        seconds = now - max(departure.at, self._landed_at)
        self._landed_at = now
        return Landing(
            departure.in_flight,
            was_assumed,
            seconds,
            departure.schedule_seconds,
            departure.is_behind,
        )

    def give_up(self, step: Step) -> list[InFlight]:
        """Takes it out, and with one that is assumed what was decided behind it.

        Raises ValueError if it is not on its way.
        """
        was_assumed = _is_of(self.assumed, step)
        given_up = [self._take(step).in_flight]
        if was_assumed and self.decided is not None:
            given_up.append(self._take(self.decided.in_flight.step).in_flight)
        return given_up

    def require_between_steps(self) -> None:
        """Raises RuntimeError while a step is on its way that is not assumed."""
        if self.decided is not None:
            raise RuntimeError(f"step {self.decided.in_flight.step.number} is in flight")

    def require_none(self) -> None:
        """Raises RuntimeError while any step is on its way, also one that is assumed."""
        self.require_between_steps()
        if self.assumed is not None:
            number = self.assumed.in_flight.step.number
            raise RuntimeError(f"step {number} has not been read: settle the engine first")

    def check(self, samples: Iterable[LiveSample]) -> None:
        """Raises AssertionError unless tails, plan and steps on their way agree."""
        unread = {sample: sample.tail.tokens[-1] for sample in samples if sample.tail.is_unread}
        if self.assumed is not None:
            for index, sample in enumerate(self.assumed.in_flight.drawing):
                token = unread.pop(sample, None)
                assert token in (None, unread_token(index)), f"{sample.key} waits for another draw"
        assert not unread, "a sample waits for a token that no step draws"
        if self.decided is not None:
            flight = self.decided.in_flight
            if all(sample.row is not None for sample in flight.samples):
                check_plan(flight.step.plan, flight.samples, flight.chunks, flight.step.positions)

    def _take(self, step: Step) -> Departure:
        assumed, decided = self.assumed, self.decided
        if assumed is not None and _is_of(assumed, step):
            self.assumed = None
            return assumed
        if decided is not None and _is_of(decided, step):
            self.decided = None
            return decided
        raise ValueError(f"step {step.number} is not in flight")

    def _require_first(self, step: Step) -> None:
        if self.assumed is not None and self.holds(step):
            number = self.assumed.in_flight.step.number
            raise ValueError(f"step {number} comes before step {step.number}: complete it first")


def _is_of(departure: Departure | None, step: Step) -> bool:
    return departure is not None and departure.in_flight.step is step
