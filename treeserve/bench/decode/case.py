"""One case of the decode benchmark: every side compared, timed in turn, and one profiled."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from treeserve.bench.deadline import Deadline
from treeserve.bench.decode.clocks import Clocks, share_out
from treeserve.bench.decode.compare import NUM_LIKELIEST, Comparison, compare_samples
from treeserve.bench.decode.floor import StepFloor
from treeserve.bench.decode.records import DecodeCase, SideRate
from treeserve.bench.decode.sides import OFF, ON, TRANSFORMERS, DecodeFailed, DecodeSide
from treeserve.bench.decode.versus import TransformersSide
from treeserve.bench.machine import synchronize
from treeserve.model import LoadedModel

FEWEST_WINDOWS = 3
SUFFIX_TOKENS = 8
"""Of every sample behind the prefix, so that samples differ."""
WARM_STEPS = 3
PROFILED_STEPS = 4
_COMPARED_TOKENS = 4
_TRANSFORMERS_WINDOWS = 3
"""At most: each has a prefill of its own, which is not timed."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long each side decodes while it is timed."""

    steps: int
    """Of one timed window."""
    rounds: int
    """Windows of each side, at most."""

    @property
    def new_tokens(self) -> int:
        return self.steps * self.rounds


def length_of(new_tokens: int, steps: int) -> Length:
    """So many tokens in windows of at most so many steps, in at least as many as are needed."""
    longest = max(1, min(steps, new_tokens // FEWEST_WINDOWS))
    fitting = next(size for size in range(longest, 0, -1) if new_tokens % size == 0)
    return Length(fitting, new_tokens // fitting)


@dataclass(slots=True, eq=False, kw_only=True)
class CaseBench:
    """The sides, and what they are held against."""

    model: LoadedModel
    sides: Mapping[str, DecodeSide]
    clocks: Clocks | None
    """Of the side with sharing on. None: there is no profile."""
    floor: StepFloor
    transformers: TransformersSide | None

    def measure(
        self,
        prefix: tuple[int, ...],
        batch: int,
        length: Length,
        max_tokens: int,
        deadline: Deadline,
    ) -> DecodeCase:
        """One batch under one prefix.

        Args:
            prefix: Shared by the whole batch.
            batch: Samples.
            length: Of what is timed.
            max_tokens: That a sample may draw in all, more than will be needed.
            deadline: After it nothing is begun that can be left out.
        """
        prompts = _prompts(prefix, batch, self.model.vocabulary_size)
        without = self._why_no_transformers(batch, len(prompts[0]) + length.new_tokens)
        case = _Case(prompts, len(prefix), length, max_tokens, deadline, self.transformers)
        if without:
            case.transformers = None
        try:
            comparison = self._compare(case)
            if comparison.wrong:
                reason = comparison.wrong
                return DecodeCase(batch=batch, prefix=len(prefix), status="wrong", reason=reason)
            windows, read = self._time_sides(case)
            shares = self._profile(batch)
        except DecodeFailed as error:
            return DecodeCase(batch=batch, prefix=len(prefix), status="failed", reason=str(error))
        finally:
            for side in self.sides.values():
                side.stop()
        rates = {
            name: _rate(batch, seconds, read.get(name, 0)) for name, seconds in windows.items()
        }
        num_timed = length.steps * len(windows[ON])
        own_tokens = SUFFIX_TOKENS + WARM_STEPS + num_timed
        return DecodeCase(
            batch=batch,
            prefix=len(prefix),
            status="timed",
            own_tokens=own_tokens,
            new_tokens=length.new_tokens,
            num_compared=comparison.num_equal,
            num_parted=comparison.num_parted,
            sides=rates,
            floor_seconds=self.floor.seconds(batch, len(prefix), own_tokens - num_timed // 2),
            shares=shares,
            without_transformers=without,
        )

    def _why_no_transformers(self, batch: int, num_tokens: int) -> str:
        if self.transformers is None:
            return ""
        bytes_per_token = self.floor.numbers_per_token * self.floor.itemsize
        return self.transformers.why_not(batch, num_tokens, bytes_per_token)

    def _compare(self, case: "_Case") -> Comparison:
        """Sharing on with off, and with transformers; the first comparison if all is well."""
        drawn = {}
        for name in (ON, OFF):
            self.sides[name].start(case.prompts, _COMPARED_TOKENS, NUM_LIKELIEST)
            drawn[name] = self.sides[name].draw_all(len(case.prompts))
        if case.transformers is not None:
            drawn[TRANSFORMERS] = case.transformers.draw(
                case.prompts, case.num_prefix, _COMPARED_TOKENS, NUM_LIKELIEST
            )
        dtype = str(self.model.dtype).removeprefix("torch.")
        compared = {
            name: compare_samples(drawn[ON], other, dtype)
            for name, other in drawn.items()
            if name != ON
        }
        for name, comparison in compared.items():
            if comparison.wrong:
                wrong = f"sharing on and {name} differ: {comparison.wrong}"
                return Comparison(0, 0, comparison.largest_difference, wrong)
        return compared[OFF]

    def _time_sides(self, case: "_Case") -> tuple[dict[str, list[float]], dict[str, int]]:
        """Seconds of a step in each side's windows; KV tokens that each reads.

        All sides decode at the same time of the clock, some steps each in turn, to and fro.
        """
        read = dict.fromkeys(self.sides, 0)
        windows: dict[str, Callable[[], float]] = {}
        for name, side in self.sides.items():
            side.start(case.prompts, case.max_tokens)
            for _ in range(WARM_STEPS):
                side.step_until_all_decode(len(case.prompts))
            windows[name] = lambda name=name: self._window(name, case, read)  # type: ignore[misc]
        theirs = case.transformers
        if theirs is not None:
            steps = case.length.steps
            windows[TRANSFORMERS] = lambda: theirs.step_seconds(
                case.prompts, case.num_prefix, steps
            )
        seconds: dict[str, list[float]] = {name: [] for name in windows}
        names = list(windows)
        for number in range(case.length.rounds):
            if number >= FEWEST_WINDOWS and case.deadline.left() <= 0:
                break
            for name in reversed(names) if number % 2 else names:
                if name != TRANSFORMERS or number < _TRANSFORMERS_WINDOWS:
                    seconds[name].append(windows[name]())
        return seconds, read

    def _window(self, name: str, case: "_Case", read: dict[str, int]) -> float:
        synchronize(self.model.device)
        started = time.perf_counter()
        for _ in range(case.length.steps):
            numbers = self.sides[name].step()
            if numbers.num_drawn != len(case.prompts):
                raise DecodeFailed("not every sample drew a token in every step")
        synchronize(self.model.device)
        read[name] = numbers.kv_tokens_read
        return (time.perf_counter() - started) / case.length.steps

    def _profile(self, batch: int) -> dict[str, float]:
        if self.clocks is None:
            return {}
        with self.clocks.on(self.model):
            started = time.perf_counter()
            steps = [self.sides[ON].step() for _ in range(PROFILED_STEPS)]
            seconds = time.perf_counter() - started
        if any(step.num_drawn != batch for step in steps):
            raise DecodeFailed("not every sample drew a token in every profiled step")
        return share_out(self.clocks, seconds, steps)


@dataclass(slots=True)
class _Case:
    prompts: Sequence[tuple[int, ...]]
    num_prefix: int
    length: Length
    max_tokens: int
    deadline: Deadline
    transformers: TransformersSide | None


def _rate(batch: int, step_seconds: Sequence[float], kv_tokens_read: int) -> SideRate:
    seconds = statistics.median(step_seconds)
    return SideRate(
        tokens_per_second=batch / seconds,
        step_seconds=seconds,
        windows=len(step_seconds),
        kv_tokens_read=kv_tokens_read,
    )


def _prompts(prefix: tuple[int, ...], batch: int, vocabulary_size: int) -> list[tuple[int, ...]]:
    """The prefix, and behind it each sample's own tokens."""
    own = np.random.default_rng(1).integers(0, vocabulary_size, (batch, SUFFIX_TOKENS))
    # The first tells the samples apart, as far as there are tokens enough.
    own[:, 0] = np.arange(batch) % vocabulary_size
    return [prefix + tuple(suffix) for suffix in own.tolist()]
