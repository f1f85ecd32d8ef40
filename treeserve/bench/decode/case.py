"""One case of the decode benchmark: every side compared, timed in turn, and one profiled."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from treeserve.bench.deadline import Deadline
from treeserve.bench.decode.clocks import Clocks, share_out
from treeserve.bench.decode.compare import NUM_LIKELIEST, Comparison, compare_samples
from treeserve.bench.decode.floor import StepFloor
from treeserve.bench.decode.records import DecodeCase, SideRate, Status
from treeserve.bench.decode.rivals import Rival, RivalFailed
from treeserve.bench.decode.sides import OFF, ON, DecodeFailed, DecodeSide
from treeserve.bench.machine import synchronize
from treeserve.model import LoadedModel

FEWEST_WINDOWS = 3
SUFFIX_TOKENS = 8
"""Of every sample behind the prefix, so that samples differ."""
WARM_STEPS = 3
PROFILED_STEPS = 4
_COMPARED_TOKENS = 4
_RIVAL_WINDOWS = 3
"""Of each rival, at most: each has a prefill of its own, which is not timed."""


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


def prompts_under(
    prefix: tuple[int, ...], batch: int, vocabulary_size: int
) -> list[tuple[int, ...]]:
    """The prefix, and behind it each sample's own tokens."""
    own = np.random.default_rng(1).integers(0, vocabulary_size, (batch, SUFFIX_TOKENS))
    # The first tells the samples apart, as far as there are tokens enough.
    own[:, 0] = np.arange(batch) % vocabulary_size
    return [prefix + tuple(suffix) for suffix in own.tolist()]


@dataclass(slots=True, eq=False, kw_only=True)
class CaseBench:
    """The sides, and what they are held against."""

    model: LoadedModel
    sides: Mapping[str, DecodeSide]
    clocks: Clocks | None
    """Of the side with sharing on. None: there is no profile."""
    floor: StepFloor
    rivals: Mapping[str, Rival]

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
        prompts = prompts_under(prefix, batch, self.model.vocabulary_size)
        case = _Case(prompts, len(prefix), length, max_tokens, deadline)
        self._choose_rivals(case)
        try:
            comparison = self._compare(case)
            if comparison.wrong:
                reason = comparison.wrong
                return _untimed(batch, len(prefix), length, "wrong", reason)
            windows, read = self._time_sides(case)
            part_seconds = self._profile(batch)
        except DecodeFailed as error:
            return _untimed(batch, len(prefix), length, "failed", str(error))
        finally:
            for side in self.sides.values():
                side.stop()
            for rival in self.rivals.values():
                rival.end_case()
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
            part_seconds=part_seconds,
            without=case.without,
        )

    def _choose_rivals(self, case: "_Case") -> None:
        bytes_per_token = self.floor.numbers_per_token * self.floor.itemsize
        num_tokens = len(case.prompts[0]) + case.length.new_tokens
        for name, rival in self.rivals.items():
            reason = rival.why_not(len(case.prompts), num_tokens, bytes_per_token)
            if reason:
                case.without[name] = reason
            else:
                case.rivals[name] = rival

    def _compare(self, case: "_Case") -> Comparison:
        """Sharing on with off, and with each rival; the first comparison if all is well."""
        drawn = {}
        for name in (ON, OFF):
            self.sides[name].start(case.prompts, _COMPARED_TOKENS, NUM_LIKELIEST)
            drawn[name] = self.sides[name].draw_all(len(case.prompts))
        dtype = str(self.model.dtype).removeprefix("torch.")
        compared = {OFF: compare_samples(drawn[ON], drawn[OFF], dtype)}
        for name, rival in list(case.rivals.items()):
            try:
                compared[name] = rival.compare(drawn[ON], case.prompts, case.num_prefix, dtype)
            except RivalFailed as error:
                del case.rivals[name]
                case.without[name] = str(error)
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
        for name, rival in case.rivals.items():
            windows[name] = lambda rival=rival: rival.step_seconds(  # type: ignore[misc]
                case.prompts, case.num_prefix, case.length.steps
            )
        seconds: dict[str, list[float]] = {name: [] for name in windows}
        names = list(windows)
        for number in range(case.length.rounds):
            if number >= FEWEST_WINDOWS and case.deadline.left() <= 0:
                break
            for name in reversed(names) if number % 2 else names:
                if name in self.sides:
                    seconds[name].append(windows[name]())
                elif name in case.rivals and number < _RIVAL_WINDOWS:
                    self._time_rival(name, case, windows, seconds)
        return seconds, read

    def _time_rival(
        self,
        name: str,
        case: "_Case",
        windows: Mapping[str, Callable[[], float]],
        seconds: dict[str, list[float]],
    ) -> None:
        """One window more; one that breaks off is out, and says why."""
        try:
            seconds[name].append(windows[name]())
        except RivalFailed as error:
            case.without[name] = str(error)
            del case.rivals[name], seconds[name]

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
    rivals: dict[str, Rival] = field(default_factory=dict)
    """That take part."""
    without: dict[str, str] = field(default_factory=dict)
    """Why the others do not."""


def _untimed(batch: int, prefix: int, length: Length, status: Status, reason: str) -> DecodeCase:
    return DecodeCase(
        batch=batch, prefix=prefix, new_tokens=length.new_tokens, status=status, reason=reason
    )


def _rate(batch: int, step_seconds: Sequence[float], kv_tokens_read: int) -> SideRate:
    seconds = statistics.median(step_seconds)
    return SideRate(
        tokens_per_second=batch / seconds,
        step_seconds=seconds,
        windows=len(step_seconds),
        kv_tokens_read=kv_tokens_read,
    )
