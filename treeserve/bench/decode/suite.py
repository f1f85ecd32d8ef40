"""The decode benchmark as a whole: every batch under every prefix, as far as memory and time go."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from treeserve.bench.deadline import Deadline
from treeserve.bench.decode.case import (
    PROFILED_STEPS,
    SUFFIX_TOKENS,
    WARM_STEPS,
    CaseBench,
    Length,
)
from treeserve.bench.decode.clocks import Clocks
from treeserve.bench.decode.floor import step_floor
from treeserve.bench.decode.records import DecodeCase, summarize
from treeserve.bench.decode.sides import make_sides
from treeserve.bench.decode.versus import TransformersSide
from treeserve.bench.machine import describe_machine, free_bytes
from treeserve.bench.rates import measure_rates
from treeserve.bench.timing import Stopwatch
from treeserve.building import backend_for
from treeserve.calibration.choice import choose_costs
from treeserve.calibration.subject import make_subject
from treeserve.config import DEFAULT_PAGE_SIZE, CalibrationMode, SchedulerConfig
from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel
from treeserve.packed_linear import PackedLinear

_CPU_POOL_BYTES = 1 << 30
_POOL_SHARE = 0.35
"""Of the free memory of a CUDA device, for each of the two KV caches."""
_BUDGET_BESIDE_DECODING = 2048
"""Rows of a step for prompts, so that prefixes are computed in few steps."""


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
    load: Callable[[], LoadedModel],
    options: DecodeOptions,
    report: Callable[[str], None],
    load_versus: Callable[[], PreTrainedModel] | None = None,
) -> dict[str, Any]:
    """Measure every batch under every prefix.

    Args:
        load: Loads or makes the model; its time counts.
        options: What to measure.
        report: Is told what is being done.
        load_versus: The same model for transformers' own `generate`, which is then a side too.

    Returns:
        Plain data: device, versions, date, model, every case, the summary, what was left out.
    """
    started = time.perf_counter()
    deadline = Deadline(options.time_limit)
    report("making the model")
    model = load()
    dtype = str(model.dtype).removeprefix("torch.")
    backend = options.backend or backend_for(model, DEFAULT_PAGE_SIZE)
    subject = make_subject(model.layers, backend, model.dtype, model.device)
    costs = choose_costs(options.costs, subject, model.device, report)
    report("measuring the device")
    rates = measure_rates(Stopwatch(model.device), model.dtype, model.device)
    num_pages = _pool_pages(model, options)
    config = SchedulerConfig(
        num_pages=num_pages,
        token_budget=max(options.batches) + _BUDGET_BESIDE_DECODING,
        max_running=max(options.batches),
        reserve=1.0,
    )
    clocks = Clocks()
    bench = CaseBench(
        model=model,
        sides=make_sides(model, backend, config, costs.model, clocks),
        clocks=None if model.device.type == "cuda" else clocks,
        floor=step_floor(model, rates),
        transformers=None if load_versus is None else TransformersSide(load_versus()),
    )
    cases, left_out = _measure_cases(bench, config, options, deadline, report)
    return {
        "benchmark": "decode",
        **describe_machine(model.device),
        "model": _describe_model(model),
        "backend": backend,
        "dtype": dtype,
        "costs": costs.source,
        "threads": torch.get_num_threads(),
        "measured_rates": asdict(rates),
        "time_limit_seconds": options.time_limit,
        "seconds": time.perf_counter() - started,
        "cases": [case.to_json() for case in cases],
        "summary": summarize(cases),
        "left_out": left_out,
    }


def has_failed(result: Mapping[str, Any]) -> bool:
    """Whether sharing on and off drew different tokens anywhere, or a case broke off."""
    return bool(result["summary"]["num_wrong"] or result["summary"]["num_failed"])


def _measure_cases(
    bench: CaseBench,
    config: SchedulerConfig,
    options: DecodeOptions,
    deadline: Deadline,
    report: Callable[[str], None],
) -> tuple[list[DecodeCase], list[str]]:
    todo = list(product(options.prefixes, options.batches, options.lengths))
    cases: list[DecodeCase] = []
    left_out = []
    tokens = _random_tokens(bench.model.vocabulary_size, max(options.prefixes))
    for number, (prefix, batch, length) in enumerate(todo):
        name = f"batch {batch}, prefix {prefix}, {length.new_tokens} new tokens"
        if deadline.left() <= 0:
            left_out.append(name)
            continue
        reason = _why_not(bench.model, config, options, batch, prefix)
        if reason:
            skipped = DecodeCase(batch=batch, prefix=prefix, status="skipped", reason=reason)
            cases.append(skipped)
            continue
        report(f"{number + 1} of {len(todo)}: {name}")
        part = deadline.part(1 / (len(todo) - number))
        measured = bench.measure(tokens[:prefix], batch, length, options.max_tokens, part)
        cases.append(measured)
    return cases, left_out


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
    shapes = [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
    page_bytes = KVCache.bytes_per_slot(shapes, model.dtype) * DEFAULT_PAGE_SIZE
    free = free_bytes(model.device) if model.device.type == "cuda" else None
    room = _CPU_POOL_BYTES if free is None else int(free * _POOL_SHARE)
    largest = options.num_pages(max(options.batches), max(options.prefixes))
    return max(min(largest, room // page_bytes), 1)


def _random_tokens(vocabulary_size: int, length: int) -> tuple[int, ...]:
    numbers = np.random.default_rng(0).integers(0, vocabulary_size, length)
    return tuple(numbers.tolist())


def _num_parameters(model: LoadedModel) -> int:
    """Packed weights are no parameters any more; those of a tied head are the embeddings too."""
    head = model.module.get_output_embeddings()
    is_tied: bool = model.module.config.tie_word_embeddings
    packed = [
        part.in_features * part.out_features
        for part in model.module.modules()
        if isinstance(part, PackedLinear) and not (is_tied and part is head)
    ]
    plain: int = sum(p.numel() for p in model.module.parameters())
    return plain + sum(packed)


def _describe_model(model: LoadedModel) -> dict[str, Any]:
    layer = model.layers[0]
    return {
        "name": model.name,
        "num_parameters": _num_parameters(model),
        "num_layers": len(model.layers),
        "num_heads": layer.num_heads,
        "num_kv_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
    }


def _pages(num_tokens: int) -> int:
    return -(-num_tokens // DEFAULT_PAGE_SIZE)
