"""The modules benchmark as a whole: single prompts by length, then many that mix modules."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from treeserve.bench.machine import describe_machine
from treeserve.bench.modules.answers import measure_answers
from treeserve.bench.modules.sides import (
    Asked,
    First,
    ModulesBench,
    ModulesFailed,
    import_all,
    make_module,
    random_tokens,
)
from treeserve.bench.so_far import Watch, begin
from treeserve.model import LoadedModel

FULL, PREFIX, MODULES = "full", "prefix", "modules"
_MODULES_PER_PROMPT = 5
_CHECKED_TOKENS = 256
_TOLERANCE = 5e-2
"""Of log-probabilities that are equal but for rounding, in natural-log units."""
_PARTS = ("answers", "lengths", "mix")
_TELL_PARTS_APART = ("lengths", "num_examples", "num_problems")
"""Options that say which parts are measured; the others are settings of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModulesOptions:
    """What is measured."""

    lengths: tuple[int, ...]
    """Tokens in modules of a single prompt."""
    own_tokens: int
    rounds: int
    num_prompts: int
    """That come at once and mix modules; 0: this part is left out."""
    num_modules: int
    module_tokens: int
    """Of each module that they mix."""
    imports: int
    """Modules of each of those prompts."""
    num_examples: int
    """Modules before each problem whose reference program is scored."""
    num_problems: int
    """0: answers are left out."""

    @property
    def num_slots(self) -> int:
        """Tokens of a pool in which nothing has to be evicted."""
        mixed = self.num_prompts * (self.imports * self.module_tokens + self.own_tokens)
        lengths = 3 * max(self.lengths, default=0) + 64 * self.own_tokens
        return lengths + self.num_modules * self.module_tokens + 2 * mixed + 4 * _CHECKED_TOKENS


def run_modules(
    model: LoadedModel,
    options: ModulesOptions,
    watch: Watch,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure, side by side; what the result has so far is kept after each part.

    Args:
        model: With random weights.
        options: What is measured.
        watch: Told of what is done, and given the result so far after each part.
        before: An earlier result of the same settings, whose parts are not measured again.

    Raises:
        ModulesFailed: A side computed something else than it was to.
        ConfigError: The earlier result is of other settings.
    """
    bench = ModulesBench(model, options.num_slots, max(1, options.num_prompts), watch.tell)
    begun = begin(_settings(model, bench, options), before, _PARTS)
    result: dict[str, Any] = {
        **begun.settings,
        "logprob_difference_of_one_module": None,
        **(begun.parts or {"answers": None, "lengths": [], "mix": None}),
    }
    chance = np.random.default_rng(7)
    watch.tell("checking")
    result["logprob_difference_of_one_module"] = _check_exact(bench, chance, model.vocabulary_size)
    watch.keep(result)
    if options.num_problems and not _are_of(result["answers"], options):
        result["answers"] = measure_answers(options.num_examples, options.num_problems, watch.tell)
        watch.keep(result)
    for length in options.lengths:
        if all(entry["length"] != length for entry in result["lengths"]):
            entry = _measure_length(
                bench, chance, model.vocabulary_size, length, options, watch.tell
            )
            result["lengths"] = sorted([*result["lengths"], entry], key=itemgetter("length"))
            bench.forget()
            watch.keep(result)
    if options.num_prompts and result["mix"] is None:
        result["mix"] = _measure_mix(bench, chance, model.vocabulary_size, options, watch.tell)
    bench.check()
    return result


def _settings(model: LoadedModel, bench: ModulesBench, options: ModulesOptions) -> dict[str, Any]:
    shared = {
        name: value for name, value in asdict(options).items() if name not in _TELL_PARTS_APART
    }
    return {
        "benchmark": "modules",
        **describe_machine(model.device),
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "backend": bench.backend,
        "costs": bench.costs_source,
        "options": shared,
        "bytes_per_token": bench.bytes_per_token,
    }


def _are_of(answers: Mapping[str, Any] | None, options: ModulesOptions) -> bool:
    """Whether those that there are are of as many problems and examples."""
    wanted = (options.num_problems, options.num_examples)
    return answers is not None and (answers["problems"], answers["examples"]) == wanted


def _check_exact(bench: ModulesBench, chance: np.random.Generator, vocabulary_size: int) -> float:
    """A prompt of one module at the beginning is a plain prompt: the same function, two ways."""
    tokens = random_tokens(chance, _CHECKED_TOKENS, vocabulary_size)
    own = tuple(random_tokens(chance, 8, vocabulary_size))
    modules = import_all([make_module("checked", tokens, 0)], len(tokens))
    [plain] = bench.first_tokens([Asked((*tokens, *own))])
    [imported] = bench.first_tokens([Asked(own, modules)])
    bench.forget()
    difference = abs(plain.logprob - imported.logprob)
    if difference > _TOLERANCE:
        raise ModulesFailed(
            f"one module alone and the same plain prompt differ by {difference:.3g} in the first "
            "token's log-probability: no times are shown"
        )
    return difference


def _measure_length(
    bench: ModulesBench,
    chance: np.random.Generator,
    vocabulary_size: int,
    length: int,
    options: ModulesOptions,
    told: Callable[[str], None],
) -> dict[str, Any]:
    """Every round asks with own text that nobody has asked with; sides take turns."""
    shared = random_tokens(chance, length, vocabulary_size)
    bounds = [length * part // _MODULES_PER_PROMPT for part in range(_MODULES_PER_PROMPT + 1)]
    pairs = itertools.pairwise(bounds)
    modules = import_all(
        [make_module(f"{length}-{start}", shared[start:end], start) for start, end in pairs],
        length,
    )
    seconds: dict[str, list[float]] = {FULL: [], PREFIX: [], MODULES: []}
    encoding = 0.0
    for round_number in range(options.rounds):
        told(f"{length} tokens, round {round_number + 1} of {options.rounds}")
        owns = [random_tokens(chance, options.own_tokens, vocabulary_size) for _ in range(3)]
        bench.forget()
        [full] = bench.first_tokens([Asked((*shared, *owns[0]))])
        # The full prompt has left its shared part cached.
        [prefix] = bench.first_tokens([Asked((*shared, *owns[1]))])
        [cold] = bench.first_tokens([Asked(tuple(owns[0]), modules)])
        [warm] = bench.first_tokens([Asked(tuple(owns[2]), modules)])
        _require(full, "in full", computed=length + options.own_tokens)
        _require(prefix, "after a prefix", computed=options.own_tokens)
        _require(warm, "of modules", computed=options.own_tokens, module=length)
        for side, first in ((FULL, full), (PREFIX, prefix), (MODULES, warm)):
            seconds[side].append(first.seconds)
        encoding = cold.seconds
    medians = {side: statistics.median(each) for side, each in seconds.items()}
    return {
        "length": length,
        "seconds": medians,
        "all_seconds": seconds,
        "first_import_seconds": encoding,
        "speedup": medians[FULL] / medians[MODULES],
        "against_prefix": medians[PREFIX] / medians[MODULES],
    }


def _measure_mix(
    bench: ModulesBench,
    chance: np.random.Generator,
    vocabulary_size: int,
    options: ModulesOptions,
    told: Callable[[str], None],
) -> dict[str, Any]:
    """Prompts that come at once, each of some modules in an order of its own."""
    size = options.module_tokens
    texts = [random_tokens(chance, size, vocabulary_size) for _ in range(options.num_modules)]
    modules = [make_module(f"m{index}", text, index * size) for index, text in enumerate(texts)]
    base = options.num_modules * size
    plain, imported = [], []
    for _ in range(options.num_prompts):
        chosen = chance.permutation(options.num_modules)[: options.imports]
        own = tuple(random_tokens(chance, options.own_tokens, vocabulary_size))
        plain.append(Asked((*(token for index in chosen for token in texts[index]), *own)))
        kept = [modules[index] for index in sorted(chosen)]
        imported.append(Asked(own, import_all(kept, base)))
    bench.forget()
    sides = {}
    for name, asked in ((PREFIX, plain), ("modules, cold", imported), ("modules, warm", imported)):
        told(f"{options.num_prompts} prompts, {name}")
        if name == "modules, warm":
            fresh = [random_tokens(chance, options.own_tokens, vocabulary_size) for _ in asked]
            asked = [Asked(tuple(o), a.modules) for o, a in zip(fresh, asked, strict=True)]
        sides[name] = _mix_side(bench, bench.first_tokens(asked))
        if name == PREFIX:
            bench.forget()
    return {"prompt_tokens": sum(len(asked.token_ids) for asked in plain), "sides": sides}


def _mix_side(bench: ModulesBench, firsts: Sequence[First]) -> dict[str, Any]:
    prompt_tokens = sum(first.usage.prompt_tokens for first in firsts)
    held = bench.num_cached_tokens
    return {
        "median_seconds": statistics.median(first.seconds for first in firsts),
        "last_seconds": max(first.seconds for first in firsts),
        "prompt_tokens": prompt_tokens,
        "computed_tokens": sum(first.usage.computed_tokens for first in firsts),
        "module_tokens": sum(first.usage.module_tokens for first in firsts),
        "held_tokens": held,
        "bytes_per_prompt_token": held * bench.bytes_per_token / prompt_tokens,
    }


def _require(first: First, side: str, *, computed: int, module: int = 0) -> None:
    """What a side is to save, it has saved."""
    usage = first.usage
    found = (usage.computed_tokens, usage.module_tokens)
    if found != (computed, module):
        raise ModulesFailed(
            f"a prompt {side} computed {found[0]} tokens of its own and read {found[1]} of "
            f"modules, not {computed} and {module}: no times are shown"
        )
