"""The sides of the modules benchmark: one prompt in full, after a cached prefix, of modules."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from treeserve.attention.backend import kv_layout, make_backend
from treeserve.building import backend_for
from treeserve.calibration.choice import choose_costs
from treeserve.calibration.subject import make_subject
from treeserve.config import SchedulerConfig
from treeserve.engine import Engine
from treeserve.engine_messages import EngineRequest, RequestEnded, TokenEvent
from treeserve.errors import TreeserveError
from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel
from treeserve.runner import Runner
from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.request import PromptUsage
from treeserve.scheduler.scheduler import Scheduler
from treeserve.types import SamplingParams

_PAGE_SIZE = 16
_ONE_GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=1, ignore_eos=True, logprobs=0)


class ModulesFailed(TreeserveError):
    """A side computed something else than it was to; says what. No times are shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A prompt of one side."""

    token_ids: tuple[int, ...]
    modules: ModuleSet | None = None


@dataclass(frozen=True, slots=True)
class First:
    """A prompt's first token."""

    seconds: float
    """Since all prompts that came together had been added."""
    token_id: int
    logprob: float
    usage: PromptUsage


class ModulesBench:
    """One engine around a model, as it would be served, which is asked for first tokens alone.

    Args:
        model: With random weights, or a checkpoint.
        num_slots: Tokens that its pool holds.
        max_running: Prompts at once, at most.
        told: Of what is done.
    """

    def __init__(
        self, model: LoadedModel, num_slots: int, max_running: int, told: Callable[[str], None]
    ) -> None:
        config = SchedulerConfig(
            num_pages=-(-num_slots // _PAGE_SIZE), page_size=_PAGE_SIZE, max_running=max_running
        )
        self.bytes_per_token = KVCache.bytes_per_slot(_shapes(model), model.dtype)
        self.backend = backend = backend_for(model, _PAGE_SIZE)
        slots = config.num_pages * config.page_size
        cache = KVCache(_shapes(model), slots, model.dtype, model.device, kv_layout(backend))
        group = max(layer.num_heads // layer.num_kv_heads for layer in model.layers)
        runner = Runner(model, make_backend(backend, cache, group), config.kept_logits)
        subject = make_subject(model.layers, backend, model.dtype, model.device)
        costs = choose_costs("auto", subject, model.device, told)
        self.costs_source = costs.source
        self._engine = Engine(Scheduler(config, costs.model), runner, overlap=False)
        self._num_asked = 0

    def first_tokens(self, prompts: Sequence[Asked]) -> list[First]:
        """Ask for all of them at once and run until each has its first token.

        Raises:
            ModulesFailed: A step failed.
        """
        names = [f"{self._num_asked + index}" for index in range(len(prompts))]
        self._num_asked += len(prompts)
        started = time.perf_counter()
        for name, asked in zip(names, prompts, strict=True):
            self._engine.add(
                EngineRequest(name, asked.token_ids, _ONE_GREEDY, modules=asked.modules)
            )
        drawn: dict[str, tuple[float, TokenEvent]] = {}
        usages: dict[str, PromptUsage] = {}
        while self._engine.has_work():
            events, _ = self._engine.step()
            now = time.perf_counter() - started
            for event in events:
                if isinstance(event, TokenEvent):
                    drawn[event.request_id] = (now, event)
                elif isinstance(event, RequestEnded):
                    if event.error is not None:
                        raise ModulesFailed(f"a step failed: {event.error}")
                    usages[event.request_id] = event.usage
        return [_first(*drawn[name], usages[name]) for name in names]

    def forget(self) -> None:
        """Nothing is cached from now on."""
        self._engine.scheduler.clear_cache()

    @property
    def num_cached_tokens(self) -> int:
        """Slots of the pages that the tree holds."""
        return self._engine.scheduler.counts().cached_pages * _PAGE_SIZE

    def check(self) -> None:
        """Raise where the books do not balance."""
        self._engine.scheduler.check()


def random_tokens(chance: np.random.Generator, number: int, vocabulary_size: int) -> list[int]:
    """Of them all but the first, which may be special."""
    return [int(token) for token in chance.integers(1, vocabulary_size, number)]


def make_module(key: str, token_ids: Sequence[int], start: int) -> Module:
    """At positions without gaps."""
    positions = np.arange(start, start + len(token_ids), dtype=np.int32)
    return Module(key, np.array(token_ids, dtype=np.int32), positions)


def import_all(modules: Sequence[Module], base_position: int) -> ModuleSet:
    """Without arguments."""
    return ModuleSet(tuple(modules), np.empty(0, dtype=np.int32), base_position)


def _first(seconds: float, event: TokenEvent, usage: PromptUsage) -> First:
    assert event.logprob is not None
    return First(seconds, event.token_id, event.logprob.logprob, usage)


def _shapes(model: LoadedModel) -> list[tuple[int, int]]:
    return [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
