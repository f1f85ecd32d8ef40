"""Times several functions in turn, eager and as CUDA graphs, the last-level cache flushed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from treeserve.bench.deadline import Deadline
from treeserve.bench.machine import synchronize

Call: TypeAlias = Callable[[], Tensor]
Mode: TypeAlias = Literal["eager", "graph"]

FEWEST_ROUNDS = 3
_CUDA_FLUSH_BYTES = 256 << 20
_CPU_FLUSH_BYTES = 64 << 20
_WARM_UPS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One of the functions that are timed.

    eager: the device is idle when the call begins, so that launching counts. graph: the call is
    enqueued behind the flush, so that only the device's own time counts.
    """

    call: Callable[[], object]
    mode: Mode


@dataclass(frozen=True, slots=True, eq=False)
class CapturedCall:
    """A call as a CUDA graph; `output` is written anew by every replay."""

    graph: torch.cuda.CUDAGraph
    output: Tensor

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.output


def capture(call: Call) -> CapturedCall:
    """The call as a CUDA graph. It is run before, so that what has to be compiled is."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return CapturedCall(graph, output)


class Stopwatch:
    """Owns the memory that the cache is flushed with.

    Args:
        device: Where the functions run.
        clock: In seconds; on a CPU alone, for a GPU has its own.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._device = device
        self._clock = clock
        size = _CPU_FLUSH_BYTES if device.type == "cpu" else _CUDA_FLUSH_BYTES
        self._flush = torch.empty(size, dtype=torch.int8, device=device)

    def time_in_turn(
        self, runs: Mapping[str, Run], rounds: int, deadline: Deadline
    ) -> dict[str, list[float]]:
        """Seconds of each run in each round, all of them in turn, to and fro.

        Args:
            runs: By name.
            rounds: At most.
            deadline: When it has passed, no round begins, but for the fewest that there must be.
        """
        for run in runs.values():
            for _ in range(_WARM_UPS):
                self._time(run)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        order = {name: place for place, name in enumerate(runs)}
        for number in range(rounds):
            if number >= FEWEST_ROUNDS and deadline.left() <= 0:
                break
            # Every other round backwards: no side always has the same one before it.
            for name in sorted(runs, key=order.__getitem__, reverse=bool(number % 2)):
                seconds[name].append(self._time(runs[name]))
        return seconds

    def _time(self, run: Run) -> float:
        self._flush.zero_()
        if self._device.type == "cpu":
            started = self._clock()
            run.call()
            return self._clock() - started
        if run.mode == "eager":
            synchronize(self._device)
        start, end = (torch.Event(self._device, enable_timing=True) for _ in range(2))
        start.record()
        run.call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
