"""An engine of a simulated cluster: what it is asked, and how much it has done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from treeserve.scheduler.request import PromptUsage
from treeserve.scheduler.step import Int32Array
from treeserve.simulation.runs import Run
from treeserve.simulation.trace import TraceRequest


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that was sent to an engine."""

    request: TraceRequest
    number: int
    """In the trace."""
    prompt: Int32Array
    """[n]: all of its tokens."""
    runs: Sequence[Run]
    """The same."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A request all of whose samples have ended."""

    request_id: str
    usage: PromptUsage


@dataclass(slots=True)
class Done:
    """Sums over the steps of an engine."""

    num_rows: int = 0
    """Tokens computed: of prompts, and drawn."""
    stream_seconds: float = 0.0
    """Virtual seconds of every sample that decoded."""
    busy_seconds: float = 0.0

    def add(self, num_rows: int, num_streams: int, seconds: float) -> None:
        """A step, or several alike."""
        self.num_rows += num_rows
        self.stream_seconds += num_streams * seconds
        self.busy_seconds += seconds


class Engine(Protocol):
    """It works on paper until `due`, and then wants to be advanced; inf: it has nothing to do."""

    due: float

    def done_until(self, now: float) -> Done:
        """In the steps that have ended by now, which is not after `due`."""

    @property
    def num_cached_tokens(self) -> int: ...

    def add(self, arrival: Arrival, now: float) -> None: ...

    def advance(self) -> Sequence[Ended]: ...
