"""The sides of the contest benchmark: what they share, and how many samples they may decode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from treeserve.attention.backend import kv_layout, make_backend
from treeserve.config import SchedulerConfig, SharingMode
from treeserve.engine import Engine
from treeserve.engine_messages import EngineRequest, RequestEnded, TokenEvent
from treeserve.errors import TreeserveError
from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel
from treeserve.runner import Runner
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.scheduler import Scheduler
from treeserve.types import SamplingParams

NOTHING, PAGES, TRUNK, TREE_SAME_BATCH, TREE = (
    "nothing",
    "pages",
    "trunk",
    "tree-same-batch",
    "tree",
)
SIDES = {
    NOTHING: "nothing is reused: each sample computes, stores and reads its whole prompt",
    PAGES: "the whole tree is stored once, and read for each sample alone (sharing off)",
    TRUNK: "the examples are stored and read once; a problem is each sample's own",
    TREE_SAME_BATCH: "the whole tree, with no more samples at once than `trunk` had at most",
    TREE: "the whole tree: examples, problems, samples",
}
"""In the order in which they run."""


@dataclass(frozen=True)
class Contest:
    """The prompts, in token ids; all begin with the same `num_trunk_tokens`."""

    prompts: Sequence[tuple[int, ...]]
    num_trunk_tokens: int
    num_samples: int
    max_tokens: int
    temperature: float


@dataclass(frozen=True)
class Measured:
    """One side's run.

    Attributes:
        seconds: From the first request to the last token.
        prompt_seconds: Of them, in steps that compute prompt tokens, and decode beside them.
        num_drawn_without: Tokens drawn in the other steps.
        mean_batch: Tokens drawn in a step, on average.
        peak_batch: Samples at once, at most.
        peak_pages: Held by running samples, at most; what is cached and nobody's is not counted.
        samples: What was drawn, in the order of problems and samples.
    """

    seconds: float
    prompt_seconds: float
    num_drawn_without: int
    num_steps: int
    mean_batch: float
    peak_batch: int
    peak_pages: int
    prompt_tokens_computed: int
    kv_tokens_read: int
    kv_tokens_read_flat: int
    samples: tuple[tuple[int, ...], ...]


class ContestFailed(TreeserveError):
    """A side broke off; says why."""


def measure_side(
    name: str,
    contest: Contest,
    model: LoadedModel,
    backend: str,
    cost_model: CostModel,
    config: SchedulerConfig,
    most_running: int | None = None,
    tell: Callable[[str], None] = lambda how_far: None,
) -> Measured:
    """Run one side, from an empty pool to its last sample.

    Args:
        name: A key of SIDES.
        config: Pool and budgets, the same for all sides; its sharing mode is not used.
        most_running: For TREE_SAME_BATCH.
        tell: Told how far it is, after each step.

    Raises:
        ContestFailed: A step failed.
    """
    sharing: SharingMode = "off" if name in (NOTHING, PAGES) else "on"
    own = SchedulerConfig(
        num_pages=config.num_pages,
        page_size=config.page_size,
        token_budget=config.token_budget,
        max_running=most_running or config.max_running,
        reserve=1.0,
        sharing=sharing,
    )
    engine = _make_engine(model, backend, cost_model, own)
    samples: dict[str, list[int]] = {}
    started = perf_counter()
    for request in _requests(name, contest):
        samples[request.request_id] = []
        engine.add(request)
    prompt_seconds, num_drawn_without = 0.0, 0
    num_steps, num_drawn, peak_batch, peak_pages = 0, 0, 0, 0
    while engine.has_work():
        before = perf_counter()
        events, numbers = engine.step()
        for event in events:
            if isinstance(event, TokenEvent):
                samples[event.request_id].append(event.token_id)
            elif isinstance(event, RequestEnded) and event.error is not None:
                raise ContestFailed(f"{name}: a step failed: {event.error}")
        if numbers is None or not numbers.num_rows:
            continue
        if numbers.num_prompt_rows:
            prompt_seconds += perf_counter() - before
        else:
            num_drawn_without += numbers.num_drawn
        num_steps += 1
        num_drawn += numbers.num_drawn
        seconds = perf_counter() - started
        tell(f"{num_drawn:,} of {len(samples) * contest.max_tokens:,} tokens, {seconds:,.0f} s")
        peak_batch = max(peak_batch, numbers.num_drawn)
        peak_pages = max(peak_pages, numbers.used_pages - numbers.cached_pages)
    return Measured(
        seconds=perf_counter() - started,
        prompt_seconds=prompt_seconds,
        num_drawn_without=num_drawn_without,
        num_steps=num_steps,
        mean_batch=num_drawn / num_steps,
        peak_batch=peak_batch,
        peak_pages=peak_pages,
        prompt_tokens_computed=engine.sharing.computed_prompt_tokens,
        kv_tokens_read=engine.sharing.kv_tokens_read,
        kv_tokens_read_flat=engine.sharing.kv_tokens_read_flat,
        samples=tuple(map(tuple, samples.values())),
    )


def _requests(name: str, contest: Contest) -> list[EngineRequest]:
    """One for each sample, with a seed of its own, so that all sides draw the same.

    A namespace of its own keeps a sample's prompt from being shared; a public trunk is shared all
    the same.
    """
    alone = name in (NOTHING, TRUNK)
    numbered = [
        (prompt, f"{i_problem}.{i_sample}", i_problem * contest.num_samples + i_sample)
        for i_problem, prompt in enumerate(contest.prompts)
        for i_sample in range(contest.num_samples)
    ]
    return [
        EngineRequest(
            request_id,
            prompt,
            SamplingParams(
                temperature=contest.temperature,
                seed=seed,
                max_tokens=contest.max_tokens,
                ignore_eos=True,
            ),
            namespace=request_id if alone else "",
            num_public_tokens=contest.num_trunk_tokens if name == TRUNK else 0,
        )
        for prompt, request_id, seed in numbered
    ]


def _make_engine(
    model: LoadedModel, backend: str, cost_model: CostModel, config: SchedulerConfig
) -> Engine:
    shapes = [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
    num_slots = config.num_pages * config.page_size
    cache = KVCache(shapes, num_slots, model.dtype, model.device, kv_layout(backend))
    group = max(layer.num_heads // layer.num_kv_heads for layer in model.layers)
    runner = Runner(model, make_backend(backend, cache, group), config.kept_logits)
    return Engine(Scheduler(config, cost_model), runner)
