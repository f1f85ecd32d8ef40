"""The sides of the decode benchmark: one model, three engines around it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from treeserve.attention.backend import AttentionBackend, kv_layout, make_backend
from treeserve.bench.decode.clocks import SAMPLING, ClockedBackend, Clocks
from treeserve.config import SchedulerConfig, SharingMode
from treeserve.cuda_capture import CudaCapture
from treeserve.engine import Engine
from treeserve.engine_messages import EngineRequest, RequestEnded, TokenEvent
from treeserve.errors import TreeserveError
from treeserve.kernels.tiles import ANY_SHAPE_ROWS
from treeserve.kernels.work_list import WorkList
from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel
from treeserve.runner import Runner
from treeserve.sampler import draw_from_table
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Step
from treeserve.types import SamplingParams, StepNumbers

ON, OFF, CEILING = "on", "off", "ceiling"
TRANSFORMERS, BATCHING = "transformers", "transformers_batching"
_MOST_STEPS = 10_000
"""Until all samples decode together; more would mean that they never do."""


class DecodeFailed(TreeserveError):
    """A side broke off; says why."""


class NoAttention:
    """Attention that costs nothing and computes nothing: the ceiling's. Stores no KV."""

    @property
    def shape_rows(self) -> tuple[int, ...]:
        return ANY_SHAPE_ROWS

    @property
    def reads_device_slots(self) -> bool:
        """As the others do, so that its steps become graphs where theirs do."""
        return True

    def prepare(self, step: Step, work: WorkList | None) -> object:
        return None

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer_index: int,
        batch: object,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        return q


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token that a sample drew: its log-probability, and the likeliest tokens' beside it."""

    token_id: int
    logprob: float
    top: dict[int, float]


class DecodeSide:
    """The real scheduler and runner around a shared model; one batch at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def cached_prompt_tokens(self) -> int:
        """Of prompts so far, tokens that had not to be computed; counted as a prompt ends."""
        return self._engine.scheduler.counts().tally.cached_prompt_tokens

    def start(
        self, prompts: Sequence[tuple[int, ...]], max_tokens: int, logprobs: int | None = None
    ) -> None:
        """Queue one greedy sample of each prompt."""
        params = SamplingParams(
            temperature=0.0, seed=0, max_tokens=max_tokens, ignore_eos=True, logprobs=logprobs
        )
        for index, prompt in enumerate(prompts):
            self._engine.add(EngineRequest(str(index), prompt, params))

    def draw_all(self, num_samples: int) -> list[list[Drawn]]:
        """Run to the end what was started with log-probabilities: every sample's tokens.

        Raises:
            DecodeFailed: A step failed.
        """
        samples: list[list[Drawn]] = [[] for _ in range(num_samples)]
        while self._engine.has_work():
            events, _ = self._engine.step()
            for event in events:
                _require_no_error(event)
                if isinstance(event, TokenEvent) and event.logprob is not None:
                    top = dict(event.logprob.top)
                    drawn = Drawn(event.token_id, event.logprob.logprob, top)
                    samples[int(event.request_id)].append(drawn)
        return samples

    def step_until_all_decode(self, num_samples: int) -> StepNumbers:
        """Step until a step decodes one token of every sample and computes nothing else.

        Raises:
            DecodeFailed: They never all decode together, or a step failed.
        """
        for _ in range(_MOST_STEPS):
            numbers = self.step()
            decoded = numbers.num_rows == numbers.num_drawn == num_samples
            if decoded and not numbers.num_prompt_rows:
                return numbers
        raise DecodeFailed(f"{num_samples} samples never decode together")

    def step(self) -> StepNumbers:
        """One step of what was started.

        Raises:
            DecodeFailed: A sample has ended, or a step failed.
        """
        events, numbers = self._engine.step()
        for event in events:
            _require_no_error(event)
            if isinstance(event, RequestEnded):
                raise DecodeFailed("a sample ended before it was measured")
        if numbers is None:
            raise DecodeFailed("there is nothing to decode")
        return numbers

    def step_to_the_end(self) -> list[StepNumbers]:
        """Run to the end what was started: the numbers of every step that computed anything.

        Raises:
            DecodeFailed: A step failed.
        """
        steps = []
        while self._engine.has_work():
            events, numbers = self._engine.step()
            for event in events:
                _require_no_error(event)
            if numbers is not None and (numbers.num_rows or numbers.num_drawn):
                steps.append(numbers)
        self._engine.take_ended()
        return steps

    def stop(self) -> None:
        """End what was started; what it computed stays cached."""
        self._engine.abort_all()
        while self._engine.has_work():
            self._engine.step()
        self._engine.take_ended()


def make_sides(
    model: LoadedModel,
    backend: str,
    config: SchedulerConfig,
    cost_model: CostModel,
    clocks: Clocks,
) -> dict[str, DecodeSide]:
    """Sharing on, sharing off, and no attention at all; the first two with a KV cache each.

    On cuda all three overlap their steps and replay them as graphs, as a server does.

    Args:
        model: Runs the steps of all three.
        backend: Of attention.
        config: Pool and budgets of each; its sharing mode is not used.
        cost_model: By which sharing is planned.
        clocks: Of the first side, on a CPU; elsewhere they would stop before the device does.
    """
    watched = None if model.device.type == "cuda" else clocks

    return {
        ON: make_side(
            model, attention_of(model, backend, config), config, cost_model, clocks=watched
        ),
        OFF: make_side(
            model, attention_of(model, backend, config), config, cost_model, sharing="off"
        ),
        CEILING: make_side(model, NoAttention(), config, cost_model),
    }


def make_side(
    model: LoadedModel,
    attention: AttentionBackend,
    config: SchedulerConfig,
    cost_model: CostModel,
    *,
    sharing: SharingMode = "on",
    clocks: Clocks | None = None,
) -> DecodeSide:
    """One engine around the model, with this attention and its KV cache; clocks as they are given.

    Arguments as for make_sides.
    """
    on_cuda = model.device.type == "cuda"
    own = SchedulerConfig(
        num_pages=config.num_pages,
        page_size=config.page_size,
        token_budget=config.token_budget,
        max_running=config.max_running,
        reserve=config.reserve,
        sharing=sharing,
    )
    runner = Runner(
        model,
        attention if clocks is None else ClockedBackend(attention, clocks),
        own.kept_logits,
        capture=CudaCapture(model.device) if on_cuda else None,
        max_graph_rows=own.max_running,
        draw=draw_from_table if clocks is None else clocks.around(SAMPLING, draw_from_table),
    )
    return DecodeSide(Engine(Scheduler(own, cost_model), runner, overlap=on_cuda))


def attention_of(model: LoadedModel, name: str, config: SchedulerConfig) -> AttentionBackend:
    """An attention backend with a KV cache of its own, for the whole pool."""
    shapes = [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
    num_slots = config.num_pages * config.page_size
    cache = KVCache(shapes, num_slots, model.dtype, model.device, kv_layout(name))
    group = max(layer.num_heads // layer.num_kv_heads for layer in model.layers)
    return make_backend(name, cache, group)


def _require_no_error(event: object) -> None:
    if isinstance(event, RequestEnded) and event.error is not None:
        raise DecodeFailed(f"a step failed: {event.error}")
