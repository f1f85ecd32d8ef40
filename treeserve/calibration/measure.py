"""Times a step's attention on the real backend, many steps in turn."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treeserve.attention.backend import kv_layout, make_backend
from treeserve.batch import Batch, make_batch
from treeserve.calibration.cold import CacheFlush
from treeserve.calibration.subject import Subject
from treeserve.errors import CalibrationError
from treeserve.kv_cache import KVCache
from treeserve.scheduler.step import Step

_NUM_LAYERS = 3
"""Layers that are really there: each has its own KV, so that none finds it in a processor's cache
just because the layer before has read it."""
_MAX_ROUNDS = 50
_CONFIRMED_WITHIN = 1.15
_TRIES = 4
_SLEEP_CYCLES = 2_000_000
"""About a millisecond of a GPU, in which what is to be timed is enqueued behind it."""
_FINE_ENOUGH = 1e-6
"""Seconds: what a clock has to tell apart."""


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """What one step's attention takes."""

    first: float
    """With what is worked out once a step: from the step to the first layer's result. On a GPU as
    any other layer, for there the host works ahead."""
    layer: float
    """Every other layer."""

    def per_layer(self, num_layers: int) -> float:
        """Mean over a model's layers."""
        once = max(self.first - self.layer, 0.0)
        return self.layer + once / num_layers

    def least(self, other: "StepSeconds") -> "StepSeconds":
        return StepSeconds(min(self.first, other.first), min(self.layer, other.layer))


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a step has taken in several runs."""

    least: StepSeconds
    second: float = math.inf
    """Of a layer, in the second-best run."""

    @property
    def is_doubtful(self) -> bool:
        return self.second > self.least.layer * _CONFIRMED_WITHIN

    def after(self, run: StepSeconds) -> "_Taken":
        _, second, *_ = sorted((self.least.layer, self.second, run.layer))
        return _Taken(self.least.least(run), second)


class AttentionTimer:
    """A backend over a KV cache of random values, and queries for up to so many rows.

    Args:
        subject: Says what the attention is like.
        device: Where it runs.
        num_slots: Of the KV cache.
        num_rows: Of a step, at most.
        warm_up: Steps to run at once, so that what has to be compiled is.
        patience_seconds: After that; what takes longer is not measured at all.
    """

    def __init__(
        self,
        subject: Subject,
        device: torch.device,
        num_slots: int,
        num_rows: int,
        warm_up: Sequence[Step],
        patience_seconds: float,
    ) -> None:
        dtype = getattr(torch, subject.dtype)
        shape = (subject.num_kv_heads, subject.head_dim)
        layout = kv_layout(subject.backend)
        cache = KVCache([shape] * _NUM_LAYERS, num_slots, dtype, device, layout)
        generator = torch.Generator(device).manual_seed(0)
        for index in range(_NUM_LAYERS):
            for stored in cache.layer(index):
                stored.normal_(generator=generator)
        self._device = device
        self._softcap = subject.softcap
        self._backend = make_backend(
            subject.backend, cache, subject.num_heads // subject.num_kv_heads
        )
        self._q, self._k, self._v = (
            torch.empty(num_rows, heads, subject.head_dim, dtype=dtype, device=device).normal_(
                generator=generator
            )
            for heads in (subject.num_heads, subject.num_kv_heads, subject.num_kv_heads)
        )
        self._flush = CacheFlush(device)
        self._clock = clock_for(device)
        self._gives_up_at = math.inf
        for step in warm_up:
            self._run(step)
        self._gives_up_at = time.perf_counter() + patience_seconds

    def is_quick(self, step: Step, limit: float) -> bool:
        """Whether the first layer takes less than `limit` seconds.

        It may try several times: a run may have had to compile something or to wait for a core.
        """
        return any(self._run(step).first < limit for _ in range(_TRIES))

    def time_in_turn(self, steps: Sequence[Step], seconds: float) -> list[StepSeconds]:
        """The least of each step over as many rounds as there is time for, the steps in turn.

        What else a machine does only ever adds to a time, so the least is the one to trust; and in
        turn, since what else it does comes and goes. Steps whose least time no second run has come
        near have the next rounds for themselves, and up to twice the time.

        Raises:
            CalibrationError: There is not even time for one round.
        """
        started = time.perf_counter()
        taken = [_Taken(self._run_cold(step)) for step in steps]
        for _ in range(_MAX_ROUNDS):
            doubtful = [index for index, t in enumerate(taken) if t.is_doubtful]
            deadline = started + seconds * (2 if doubtful else 1)
            for index in doubtful or range(len(steps)):
                if time.perf_counter() > deadline:
                    return [t.least for t in taken]
                taken[index] = taken[index].after(self._run_cold(steps[index]))
        return [t.least for t in taken]

    def _run_cold(self, step: Step) -> StepSeconds:
        # Once for all layers on a CPU: each has KV of its own, which is not read before its turn.
        if self._device.type == "cpu":
            self._flush()
        return self._run(step)

    @torch.inference_mode()
    def _run(self, step: Step) -> StepSeconds:
        started = time.perf_counter()
        if started > self._gives_up_at:
            raise CalibrationError(
                "calibration: a single round takes too long: the attention is too slow, or the "
                "machine too busy, to be measured"
            )
        if self._device.type == "cuda":
            layer = self._time_on_gpu(step)
            return StepSeconds(layer, layer)
        times = [self._clock()]
        batch = make_batch(step, self._device, self._backend)
        for index in range(_NUM_LAYERS):
            self._attend(batch, index)
            times.append(self._clock())
        return StepSeconds(times[1] - times[0], (times[-1] - times[1]) / (_NUM_LAYERS - 1))

    def _time_on_gpu(self, step: Step) -> float:
        """The mean of all layers but the first, each from a cold cache."""
        batch = make_batch(step, self._device, self._backend)
        self._attend(batch, 0)
        spans = []
        # Launches cost every plan the same; without this, short work would be lost in them.
        torch.cuda._sleep(_SLEEP_CYCLES)  # type: ignore[no-untyped-call]
        for index in range(1, _NUM_LAYERS):
            self._flush()
            start, end = (torch.Event(self._device, enable_timing=True) for _ in range(2))
            start.record()
            self._attend(batch, index)
            end.record()
            spans.append((start, end))
        torch.cuda.synchronize(self._device)
        return sum(start.elapsed_time(end) for start, end in spans) / 1e3 / len(spans)

    def _attend(self, batch: Batch, layer_index: int) -> Tensor:
        q, k, v = (x[: batch.num_rows] for x in (self._q, self._k, self._v))
        scaling = q.shape[-1] ** -0.5
        return self._backend.attend(
            q, k, v, layer_index, batch, scaling=scaling, softcap=self._softcap
        )


def clock_for(device: torch.device) -> Callable[[], float]:
    """Seconds: with one thread those in which it ran, which other programs hardly change."""
    if device.type != "cpu" or torch.get_num_threads() > 1:
        return time.perf_counter
    is_fine = time.get_clock_info("thread_time").resolution <= _FINE_ENOUGH
    return time.thread_time if is_fine else time.perf_counter
