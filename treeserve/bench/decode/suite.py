"""The decode benchmark as a whole: every batch under every prefix, as far as memory and time go."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from treeserve.bench.deadline import Deadline
from treeserve.bench.decode.compare import NUM_LIKELIEST, compare_samples
from treeserve.bench.decode.records import DecodeCase, SideRate, summarize
from treeserve.bench.decode.sides import OFF, ON, DecodeFailed, DecodeSide, make_sides
from treeserve.bench.machine import describe_machine, free_bytes, synchronize
from treeserve.calibration.choice import choose_costs
from treeserve.calibration.subject import make_subject
from treeserve.config import DEFAULT_PAGE_SIZE, CalibrationMode, SchedulerConfig
from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel

FEWEST_WINDOWS = 3
_SUFFIX_TOKENS = 8
"""Of every sample behind the prefix, so that samples differ."""
_COMPARED_TOKENS = 4
_WARM_STEPS = 3
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
    steps: int
    """Of one timed window."""
    rounds: int
    """Windows of each side, at most."""
    time_limit: float | None
    backend: str
    costs: CalibrationMode

    @property
    def max_tokens(self) -> int:
        """Of each sample: the first may draw some tokens before the last one does."""
        waiting = max(self.batches) * _SUFFIX_TOKENS // _BUDGET_BESIDE_DECODING
        return _WARM_STEPS + self.steps * self.rounds + waiting + 2 * _SUFFIX_TOKENS

    def num_pages(self, batch: int, prefix: int) -> int:
        """That a batch under a prefix takes."""
        own = _pages(_SUFFIX_TOKENS) + _pages(self.max_tokens) + 1
        return _pages(prefix) + 1 + batch * own


def run_decode(
    load: Callable[[], LoadedModel], options: DecodeOptions, report: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every batch under every prefix.

    Args:
        load: Loads or makes the model; its time counts.
        options: What to measure.
        report: Is told what is being done.

    Returns:
        Plain data: device, versions, date, model, every case, the summary, what was left out.
    """
    started = time.perf_counter()
    deadline = Deadline(options.time_limit)
    report("making the model")
    model = load()
    dtype = str(model.dtype).removeprefix("torch.")
    subject = make_subject(model.layers, options.backend, model.dtype, model.device)
    costs = choose_costs(options.costs, subject, model.device, report)
    num_pages = _pool_pages(model, options)
    config = SchedulerConfig(
        num_pages=num_pages,
        token_budget=max(options.batches) + _BUDGET_BESIDE_DECODING,
        max_running=max(options.batches),
        reserve=1.0,
    )
    sides = make_sides(model, options.backend, config, costs.model)
    cases, left_out = _measure_cases(model, sides, config, options, deadline, report)
    return {
        "benchmark": "decode",
        **describe_machine(model.device),
        "model": _describe_model(model),
        "backend": options.backend,
        "dtype": dtype,
        "costs": costs.source,
        "steps": options.steps,
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
    model: LoadedModel,
    sides: Mapping[str, DecodeSide],
    config: SchedulerConfig,
    options: DecodeOptions,
    deadline: Deadline,
    report: Callable[[str], None],
) -> tuple[list[DecodeCase], list[str]]:
    todo = [(prefix, batch) for prefix in options.prefixes for batch in options.batches]
    cases: list[DecodeCase] = []
    left_out = []
    tokens = _random_tokens(model.vocabulary_size, max(options.prefixes))
    for number, (prefix, batch) in enumerate(todo):
        name = f"batch {batch}, prefix {prefix}"
        if deadline.left() <= 0:
            left_out.append(name)
            continue
        reason = _why_not(model, config, options, batch, prefix)
        if reason:
            skipped = DecodeCase(batch=batch, prefix=prefix, status="skipped", reason=reason)
            cases.append(skipped)
            continue
        report(f"{number + 1} of {len(todo)}: {name}")
        part = deadline.part(1 / (len(todo) - number))
        measured = _measure(model, sides, options, tokens[:prefix], batch, part)
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
    longest = prefix + _SUFFIX_TOKENS + options.max_tokens
    if longest > model.max_positions:
        return f"too long: {longest:,} tokens, and the model takes {model.max_positions:,}"
    return ""


def _measure(
    model: LoadedModel,
    sides: Mapping[str, DecodeSide],
    options: DecodeOptions,
    prefix: tuple[int, ...],
    batch: int,
    deadline: Deadline,
) -> DecodeCase:
    prompts = _prompts(prefix, batch, model.vocabulary_size)
    try:
        drawn = {}
        for name in (ON, OFF):
            sides[name].start(prompts, _COMPARED_TOKENS, NUM_LIKELIEST)
            drawn[name] = sides[name].draw_all(batch)
        dtype = str(model.dtype).removeprefix("torch.")
        comparison = compare_samples(drawn[ON], drawn[OFF], dtype)
        if comparison.wrong:
            reason = f"sharing on and off differ: {comparison.wrong}"
            return DecodeCase(batch=batch, prefix=len(prefix), status="wrong", reason=reason)
        own_tokens, rates = _time_sides(model, sides, options, prompts, deadline)
    except DecodeFailed as error:
        return DecodeCase(batch=batch, prefix=len(prefix), status="failed", reason=str(error))
    finally:
        for side in sides.values():
            side.stop()
    return DecodeCase(
        batch=batch,
        prefix=len(prefix),
        status="timed",
        own_tokens=own_tokens,
        num_compared=comparison.num_equal,
        num_parted=comparison.num_parted,
        sides=rates,
    )


def _time_sides(
    model: LoadedModel,
    sides: Mapping[str, DecodeSide],
    options: DecodeOptions,
    prompts: Sequence[tuple[int, ...]],
    deadline: Deadline,
) -> tuple[int, dict[str, SideRate]]:
    """Tokens that each sample has at the end, and every side's rate.

    All sides decode at the same time of the clock, some steps each in turn, to and fro.
    """
    batch = len(prompts)
    for side in sides.values():
        side.start(prompts, options.max_tokens)
        for _ in range(_WARM_STEPS):
            side.step_until_all_decode(batch)
    windows: dict[str, list[float]] = {name: [] for name in sides}
    read = dict.fromkeys(sides, 0)
    names = list(sides)
    for number in range(options.rounds):
        if number >= FEWEST_WINDOWS and deadline.left() <= 0:
            break
        for name in reversed(names) if number % 2 else names:
            synchronize(model.device)
            started = time.perf_counter()
            for _ in range(options.steps):
                numbers = sides[name].step()
                if numbers.num_drawn != batch:
                    raise DecodeFailed("not every sample drew a token in every step")
            synchronize(model.device)
            windows[name].append(time.perf_counter() - started)
            read[name] = numbers.kv_tokens_read
    own_tokens = _SUFFIX_TOKENS + _WARM_STEPS + options.steps * len(windows[names[0]])
    rates = {}
    for name, seconds in windows.items():
        step_seconds = statistics.median(seconds) / options.steps
        rates[name] = SideRate(
            tokens_per_second=batch / step_seconds,
            step_seconds=step_seconds,
            windows=len(seconds),
            kv_tokens_read=read[name],
        )
    return own_tokens, rates


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


def _prompts(prefix: tuple[int, ...], batch: int, vocabulary_size: int) -> list[tuple[int, ...]]:
    """The prefix, and behind it each sample's own tokens."""
    own = np.random.default_rng(1).integers(0, vocabulary_size, (batch, _SUFFIX_TOKENS))
    # The first tells the samples apart, as far as there are tokens enough.
    own[:, 0] = np.arange(batch) % vocabulary_size
    return [prefix + tuple(suffix) for suffix in own.tolist()]


def _describe_model(model: LoadedModel) -> dict[str, Any]:
    layer = model.layers[0]
    return {
        "name": model.name,
        "num_parameters": sum(p.numel() for p in model.module.parameters()),
        "num_layers": len(model.layers),
        "num_heads": layer.num_heads,
        "num_kv_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
    }


def _pages(num_tokens: int) -> int:
    return -(-num_tokens // DEFAULT_PAGE_SIZE)
