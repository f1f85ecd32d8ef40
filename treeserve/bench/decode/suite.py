"""The decode benchmark as a whole: every batch under every prefix, as far as memory and time go."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from treeserve.bench.deadline import Deadline
from treeserve.bench.decode.batching import BatchingSide
from treeserve.bench.decode.case import (
    PROFILED_STEPS,
    SUFFIX_TOKENS,
    WARM_STEPS,
    CaseBench,
    Length,
    prompts_under,
)
from treeserve.bench.decode.clocks import Clocks
from treeserve.bench.decode.floor import step_floor
from treeserve.bench.decode.model_size import describe_model, pool_bytes, weights_bytes
from treeserve.bench.decode.peak_memory import MemoryNotMeasured, MemoryTask, measure_memory
from treeserve.bench.decode.records import DecodeCase, summarize
from treeserve.bench.decode.rivals import Rival
from treeserve.bench.decode.sides import BATCHING, TRANSFORMERS, make_sides
from treeserve.bench.decode.source import ModelSource
from treeserve.bench.decode.versus import TransformersSide
from treeserve.bench.machine import describe_machine, free_bytes
from treeserve.bench.rates import Rates, measure_rates
from treeserve.bench.so_far import CasesSoFar, Watch
from treeserve.bench.timing import Stopwatch
from treeserve.building import backend_for
from treeserve.calibration.choice import PlanningCosts, choose_costs
from treeserve.calibration.subject import make_subject
from treeserve.config import DEFAULT_PAGE_SIZE, CalibrationMode, SchedulerConfig
from treeserve.model import LoadedModel

_CPU_POOL_BYTES = 1 << 30
_POOL_SHARE = 0.35
"""Of the free memory of a CUDA device, for each of the two KV caches."""
_BUDGET_BESIDE_DECODING = 2048
"""Rows of a step for prompts, so that prefixes are computed in few steps."""
_KEYS = ("prefix", "batch", "new_tokens")
_OF_A_RUN = ("date", "measured_rates")
"""What an earlier result may have otherwise. Floors go by its rates, so that they compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """What is measured, and for how long."""

    batches: Sequence[int]
    prefixes: Sequence[int]
    lengths: Sequence[Length]
    time_limit: float | None
    backend: str | None
    """None: as "auto" would choose for the model."""
    costs: CalibrationMode
    versus: bool
    """Whether transformers' own sides are timed too."""
    memory: bool
    """Whether each case's peak is measured, in a process of its own."""

    @property
    def max_tokens(self) -> int:
        """Of each sample: the first may draw some tokens before the last one does."""
        waiting = max(self.batches) * SUFFIX_TOKENS // _BUDGET_BESIDE_DECODING
        timed = max(length.new_tokens for length in self.lengths)
        return WARM_STEPS + timed + PROFILED_STEPS + waiting + 2 * SUFFIX_TOKENS

    def num_pages(self, batch: int, prefix: int) -> int:
        """That a batch under a prefix takes."""
        own = _pages(SUFFIX_TOKENS) + _pages(self.max_tokens) + 1
        return _pages(prefix) + 1 + batch * own


def run_decode(
    source: ModelSource,
    options: DecodeOptions,
    watch: Watch,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every batch under every prefix.

    Args:
        source: Of the model; the time that loading takes counts.
        options: What to measure.
        watch: Is told what is being done, and given the result so far after each case.
        before: An earlier result of the same settings; its timed cases are not measured again.

    Returns:
        Plain data: device, versions, date, model, every case, the summary, what was left out.

    Raises:
        ConfigError: The earlier result is of other settings.
    """
    started = time.perf_counter()
    deadline = Deadline(options.time_limit)
    watch.tell("making the model")
    model = source.load()
    backend = options.backend or backend_for(model, DEFAULT_PAGE_SIZE)
    subject = make_subject(model.layers, backend, model.dtype, model.device)
    costs = choose_costs(options.costs, subject, model.device, watch.tell)
    watch.tell("measuring the device")
    rates = measure_rates(Stopwatch(model.device), model.dtype, model.device)
    settings = _settings(model, source, options, backend, costs, rates)
    so_far = CasesSoFar(settings, _KEYS, before, _OF_A_RUN)
    rates = Rates(**so_far.setting("measured_rates"))
    run = _Run(source, options, model, backend, costs, _config(model, options), so_far, watch)
    left_out = run.measure_cases(rates, deadline)
    return {**run.result(left_out), "seconds": time.perf_counter() - started}


def has_failed(result: Mapping[str, Any]) -> bool:
    """Whether sharing on and off drew different tokens anywhere, or a case broke off."""
    return bool(result["summary"]["num_wrong"] or result["summary"]["num_failed"])


def _settings(
    model: LoadedModel,
    source: ModelSource,
    options: DecodeOptions,
    backend: str,
    costs: PlanningCosts,
    rates: Rates,
) -> dict[str, Any]:
    return {
        "benchmark": "decode",
        **describe_machine(model.device),
        "model": describe_model(model),
        "backend": backend,
        "dtype": str(model.dtype).removeprefix("torch."),
        "linear_layers": "packed" if source.packs_linear else "plain",
        "quantization": source.quantization,
        "costs": costs.source,
        "threads": torch.get_num_threads(),
        "versus": "transformers" if options.versus else None,
        "with_memory": options.memory,
        "measured_rates": asdict(rates),
    }


def _config(model: LoadedModel, options: DecodeOptions) -> SchedulerConfig:
    return SchedulerConfig(
        num_pages=_pool_pages(model, options),
        token_budget=max(options.batches) + _BUDGET_BESIDE_DECODING,
        max_running=max(options.batches),
        reserve=1.0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What all cases have in common."""

    source: ModelSource
    options: DecodeOptions
    model: LoadedModel
    backend: str
    costs: PlanningCosts
    config: SchedulerConfig
    so_far: CasesSoFar
    watch: Watch

    def measure_cases(self, rates: Rates, deadline: Deadline) -> list[str]:
        """Those that are not there yet; returns the names of those for which there is no time."""
        options = self.options
        cases = product(options.prefixes, options.batches, options.lengths)
        todo = [
            (prefix, batch, length)
            for prefix, batch, length in cases
            if (prefix, batch, length.new_tokens) not in self.so_far
        ]
        if not todo:
            return []
        bench = self._make_bench(rates)
        left_out = []
        for number, (prefix, batch, length) in enumerate(todo):
            name = f"batch {batch}, prefix {prefix}, {length.new_tokens} new tokens"
            if deadline.left() <= 0:
                left_out.append(name)
                continue
            self.watch.tell(f"{number + 1} of {len(todo)}: {name}")
            part = deadline.part(1 / (len(todo) - number))
            self.so_far.add(self._measure(bench, prefix, batch, length, part).to_json())
            self.watch.keep(self.result([]))
        return left_out

    def result(self, left_out: Sequence[str]) -> dict[str, Any]:
        """Of what was measured so far."""
        return {
            **self.so_far.as_json(left_out),
            "time_limit_seconds": self.options.time_limit,
            "summary": summarize(self.so_far.cases),
        }

    def _make_bench(self, rates: Rates) -> CaseBench:
        clocks = Clocks()
        rivals: dict[str, Rival] = {}
        if self.options.versus:
            module = self.source.load_versus()
            rivals = {TRANSFORMERS: TransformersSide(module), BATCHING: BatchingSide(module)}
        return CaseBench(
            model=self.model,
            sides=make_sides(self.model, self.backend, self.config, self.costs.model, clocks),
            clocks=None if self.model.device.type == "cuda" else clocks,
            floor=step_floor(self.model, rates),
            rivals=rivals,
        )

    def _measure(
        self, bench: CaseBench, prefix: int, batch: int, length: Length, deadline: Deadline
    ) -> DecodeCase:
        reason = _why_not(self.model, self.config, self.options, batch, prefix)
        if reason:
            return DecodeCase(
                batch=batch,
                prefix=prefix,
                new_tokens=length.new_tokens,
                status="skipped",
                reason=reason,
            )
        tokens = _random_tokens(self.model.vocabulary_size, max(self.options.prefixes))[:prefix]
        case = bench.measure(tokens, batch, length, self.options.max_tokens, deadline)
        return self._with_memory(case, tokens) if case.status == "timed" else case

    def _with_memory(self, case: DecodeCase, prefix: tuple[int, ...]) -> DecodeCase:
        num_pages = self.options.num_pages(case.batch, case.prefix)
        case = replace(
            case,
            weights_bytes=weights_bytes(self.model),
            pool_bytes=pool_bytes(self.model, num_pages),
        )
        if not self.options.memory:
            return case
        task = MemoryTask(
            source=self.source,
            backend=self.backend,
            costs=self.costs.model,
            threads=torch.get_num_threads(),
            num_pages=num_pages,
            token_budget=self.config.token_budget,
            max_tokens=self.options.max_tokens,
        )
        try:
            memory = measure_memory(
                task, prompts_under(prefix, case.batch, self.model.vocabulary_size)
            )
        except MemoryNotMeasured as error:
            return replace(case, without_memory=str(error))
        return replace(case, program_bytes=memory.program_bytes, peak_bytes=memory.peak_bytes)


def _why_not(
    model: LoadedModel, config: SchedulerConfig, options: DecodeOptions, batch: int, prefix: int
) -> str:
    """Why this case cannot be measured, or nothing."""
    needed = options.num_pages(batch, prefix)
    if needed > config.num_pages:
        return (
            f"does not fit: needs {needed:,} pages of KV, "
            f"and each side has room for {config.num_pages:,}"
        )
    longest = prefix + SUFFIX_TOKENS + options.max_tokens
    if longest > model.max_positions:
        return f"too long: {longest:,} tokens, and the model takes {model.max_positions:,}"
    return ""


def _pool_pages(model: LoadedModel, options: DecodeOptions) -> int:
    """For the largest case, or as many as there is memory for."""
    free = free_bytes(model.device) if model.device.type == "cuda" else None
    room = _CPU_POOL_BYTES if free is None else int(free * _POOL_SHARE)
    largest = options.num_pages(max(options.batches), max(options.prefixes))
    return max(min(largest, room // pool_bytes(model, 1)), 1)


def _random_tokens(vocabulary_size: int, length: int) -> tuple[int, ...]:
    numbers = np.random.default_rng(0).integers(0, vocabulary_size, length)
    return tuple(numbers.tolist())


def _pages(num_tokens: int) -> int:
    return -(-num_tokens // DEFAULT_PAGE_SIZE)
