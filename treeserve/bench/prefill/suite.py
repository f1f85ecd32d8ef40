"""The prefill benchmark as a whole: prompts of every length, compared, then timed in turn."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from treeserve.attention.backend import default_cost_model
from treeserve.bench.deadline import Deadline
from treeserve.bench.decode.clocks import Clocks
from treeserve.bench.decode.compare import compare_samples
from treeserve.bench.decode.model_size import describe_model
from treeserve.bench.decode.sides import DecodeFailed, attention_of, make_side
from treeserve.bench.decode.source import ModelSource
from treeserve.bench.machine import describe_machine
from treeserve.bench.prefill.sides import EngineSide, ForwardSide, Prefilled
from treeserve.bench.so_far import CasesSoFar, Watch
from treeserve.building import backend_for
from treeserve.config import DEFAULT_PAGE_SIZE, SchedulerConfig
from treeserve.model import LoadedModel

_FEWEST_ROUNDS = 3
_PROMPTS_KEPT = 2
"""For which the pool has room: one in work, and what is left of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillOptions:
    """What is measured, and for how long."""

    lengths: Sequence[int]
    """Tokens of a prompt, ascending."""
    rounds: int
    token_budget: int
    """Rows of a step of the engine."""
    time_limit: float | None
    backend: str | None
    """None: as "auto" would choose for the model."""
    versus: bool
    """Whether transformers' forward pass is timed too."""


def run_prefill(
    source: ModelSource,
    options: PrefillOptions,
    watch: Watch,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every length.

    Args:
        source: Of the model.
        options: What to measure.
        watch: Is told what is being done, and given the result so far after each case.
        before: An earlier result of the same settings; its timed cases are not measured again.

    Returns:
        Plain data: device, versions, date, model, every case, what was left out.

    Raises:
        ConfigError: The earlier result is of other settings.
    """
    deadline = Deadline(options.time_limit)
    watch.tell("making the model")
    model = source.load()
    backend = options.backend or backend_for(model, DEFAULT_PAGE_SIZE)
    so_far = CasesSoFar(_settings(model, source, options, backend), ["tokens"], before)
    lengths = [length for length in options.lengths if (length,) not in so_far]
    left_out: list[str] = []
    if lengths:
        bench = _Bench(
            _engine_side(model, options, backend),
            ForwardSide(source.load_versus()) if options.versus else None,
            model,
        )
        for number, length in enumerate(lengths):
            name = f"{length:,} tokens"
            if deadline.left() <= 0:
                left_out.append(name)
                continue
            watch.tell(f"{number + 1} of {len(lengths)}: {name}")
            part = deadline.part(1 / (len(lengths) - number))
            so_far.add(bench.measure(length, options.rounds, part))
            watch.keep(so_far.as_json())
    return so_far.as_json(left_out)


def has_failed(result: Mapping[str, Any]) -> bool:
    """Whether the sides' logits differ by more than rounding anywhere, or a case broke off."""
    return any(case["status"] in ("wrong", "failed") for case in result["cases"])


def _settings(
    model: LoadedModel, source: ModelSource, options: PrefillOptions, backend: str
) -> dict[str, Any]:
    return {
        "benchmark": "prefill",
        **describe_machine(model.device),
        "model": describe_model(model),
        "backend": backend,
        "dtype": str(model.dtype).removeprefix("torch."),
        "linear_layers": "packed" if source.packs_linear else "plain",
        "quantization": source.quantization,
        "threads": torch.get_num_threads(),
        "token_budget": options.token_budget,
        "versus": "transformers" if options.versus else None,
    }


def _engine_side(model: LoadedModel, options: PrefillOptions, backend: str) -> EngineSide:
    config = SchedulerConfig(
        num_pages=_PROMPTS_KEPT * (-(-max(options.lengths) // DEFAULT_PAGE_SIZE) + 1),
        token_budget=options.token_budget,
        max_running=1,
        reserve=1.0,
    )
    clocks = Clocks()
    attention = attention_of(model, backend, config)
    watched = clocks if model.device.type == "cpu" else None
    layer = model.layers[0]
    # One sample at a time shares with nobody; but long items may be cut.
    costs = default_cost_model(
        backend, 2 * layer.num_kv_heads * layer.head_dim, layer.num_heads // layer.num_kv_heads
    )
    side = make_side(model, attention, config, costs, clocks=watched)
    return EngineSide(side, model, clocks)


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    ours: EngineSide
    theirs: ForwardSide | None
    model: LoadedModel
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def measure(self, length: int, rounds: int, deadline: Deadline) -> dict[str, Any]:
        """One length, in its JSON form."""
        vocabulary_size = self.model.vocabulary_size
        rng = np.random.default_rng(length)

        def new_prompt() -> list[int]:
            prompt: list[int] = rng.integers(0, vocabulary_size, length).tolist()
            # No two begin alike, or a part of the later one would be cached.
            prompt[0] = next(self.numbers) % vocabulary_size
            return prompt

        case: dict[str, Any] = {"tokens": length, "status": "timed", "reason": ""}
        if length >= self.model.max_positions:
            reason = f"too long: the model takes {self.model.max_positions:,} tokens"
            return case | {"status": "skipped", "reason": reason} | _no_times()
        try:
            wrong = self._compare(new_prompt())
            if wrong:
                return case | {"status": "wrong", "reason": wrong} | _no_times()
            seconds = self._time(new_prompt, rounds, deadline)
            on_cpu = self.model.device.type == "cpu"
            parts = self.ours.profile(new_prompt()) if on_cpu else {}
        except DecodeFailed as error:
            return case | {"status": "failed", "reason": str(error)} | _no_times()
        return case | _times(length, seconds) | {"part_seconds": parts}

    def _compare(self, prompt: list[int]) -> str:
        """What of the last logits cannot be rounding, or nothing; both sides are warm then."""
        mine = self.ours.prefill(prompt)
        if self.theirs is None:
            return ""
        dtype = str(self.model.dtype).removeprefix("torch.")
        other = self.theirs.prefill(prompt)
        wrong = compare_samples([[mine.drawn]], [[other.drawn]], dtype).wrong
        return f"the last logits and transformers' differ: {wrong}" if wrong else ""

    def _time(
        self, new_prompt: Callable[[], list[int]], rounds: int, deadline: Deadline
    ) -> dict[str, list[float]]:
        """Seconds of each side in each round, to and fro, each prompt a new one."""
        sides: dict[str, Callable[[list[int]], Prefilled]] = {"treeserve": self.ours.prefill}
        if self.theirs is not None:
            sides["transformers"] = self.theirs.prefill
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            if number >= _FEWEST_ROUNDS and deadline.left() <= 0:
                break
            prompt = new_prompt()
            for name in reversed(sides) if number % 2 else sides:
                seconds[name].append(sides[name](prompt).seconds)
        return seconds


def _no_times() -> dict[str, Any]:
    return _times(0, {}) | {"part_seconds": {}}


def _times(length: int, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    ours, theirs = median.get("treeserve"), median.get("transformers")
    return {
        "seconds": ours,
        "transformers_seconds": theirs,
        "rounds": len(seconds.get("treeserve", ())),
        "tokens_per_second": None if ours is None else length / ours,
        "transformers_tokens_per_second": None if theirs is None else length / theirs,
        "over_transformers": None if ours is None or theirs is None else theirs / ours,
    }
