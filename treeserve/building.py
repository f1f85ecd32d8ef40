"""The building of an engine from options: model, KV cache, backend, runner, scheduler."""

import logging
import os
from dataclasses import asdict, dataclass, replace

import torch

from treeserve.attention.backend import kv_layout, make_backend
from treeserve.attention.cpu_packed import why_not_chosen
from treeserve.calibration.choice import choose_costs
from treeserve.calibration.subject import Subject, make_subject
from treeserve.config import (
    CudaGraphsMode,
    EngineOptions,
    ModelConfig,
    OverlapMode,
    SchedulerConfig,
)
from treeserve.cuda_capture import CudaCapture
from treeserve.engine import Engine
from treeserve.errors import ConfigError
from treeserve.kv_cache import KVCache
from treeserve.kv_layout import KVLayoutName
from treeserve.model import LoadedModel, check_model, load_model, resolve_device
from treeserve.model_place import resolve_model
from treeserve.module_support import why_no_modules
from treeserve.parallel_model import check_ranks
from treeserve.prompt import Prompter
from treeserve.ranks.group import Place, RankGroup
from treeserve.ranks.leader import Leader
from treeserve.ranks.processes import FollowerProcesses
from treeserve.runner import Runner
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.scheduler import Scheduler
from treeserve.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

CPU_POOL_BYTES = 1 << 30
CUDA_POOL_FRACTION = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class BuiltEngine:
    """An engine and what belongs to it."""

    engine: Engine
    prompter: Prompter
    model: LoadedModel
    backend: str
    num_pages: int
    kv_cache: KVCache
    leader: Leader | None = None
    """Of the other ranks, which are to be closed with the engine; None: there are none."""

    @property
    def kv_bytes_per_token(self) -> int:
        """In all layers."""
        return KVCache.bytes_per_slot(_kv_shapes(self.model), self.model.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Core:
    """What computes steps, here or on another rank."""

    model: LoadedModel
    runner: Runner
    backend: str
    config: SchedulerConfig
    costs: CostModel
    kv_cache: KVCache


def build_engine(options: EngineOptions, place: Place | None = None) -> BuiltEngine:
    """Load the model and put an engine around it.

    Args:
        options: Of the engine.
        place: Of this process, the first of several that torchrun has started. None: other ranks,
            where there are to be any, are started from here.

    Raises:
        ConfigError: An option is out of range.
        ModelError: The model cannot be loaded or served.
        RankLost: Another rank ended before all were there.
    """
    _scheduler_config(options, 1)
    model_config = _model_config(options)
    # What its configuration tells is told before anything large is read.
    check_model(model_config)
    tokenizer = Tokenizer.load(resolve_model(options.model))
    leader = _gather_ranks(options, model_config, place)
    try:
        core = _build_core(options, None if leader is None else leader.group, leader)
    except BaseException:
        if leader is not None:
            leader.close()
        raise
    if leader is not None:
        leader.note_loaded()
    model = core.model
    prompter = Prompter(
        tokenizer,
        vocabulary_size=model.vocabulary_size,
        max_positions=model.max_positions,
        end_token_ids=model.end_token_ids,
        limits=options.limits,
        why_no_modules=why_no_modules(model),
    )
    scheduler = Scheduler(core.config, core.costs)
    overlap = _overlaps(options.overlap, model.device)
    engine = Engine(scheduler, core.runner, overlap=overlap)
    num_pages = core.config.num_pages
    return BuiltEngine(engine, prompter, model, core.backend, num_pages, core.kv_cache, leader)


def build_follower(options: EngineOptions, group: RankGroup) -> Runner:
    """The runner of a rank other than the first.

    Raises:
        ConfigError, ModelError, RankLost: As build_engine.
    """
    return _build_core(replace(options, calibration="off"), group, None).runner


def _build_core(options: EngineOptions, group: RankGroup | None, leader: Leader | None) -> _Core:
    device = resolve_device(options.device)
    model = load_model(_model_config(options))
    backend_name = _backend_name(options, model, device)
    # Before the KV pool takes what memory there is: costs may have to be measured.
    costs = choose_costs(options.calibration, _subject(model, backend_name), device, logger.info)
    logger.info("attention costs: %s", costs.source)
    num_pages = options.num_pages or _default_num_pages(model, device, options.page_size)
    if group is not None:
        num_pages = group.least(num_pages)
    config = _scheduler_config(options, num_pages)
    kv_cache = _make_kv_cache(model, config, kv_layout(backend_name))
    graphs = options.cuda_graphs if group is None else "off"
    runner = Runner(
        model,
        make_backend(backend_name, kv_cache, _group(model)),
        config.kept_logits,
        capture=_make_capture(graphs, backend_name, device),
        max_graph_rows=config.max_running,
        leader=leader,
    )
    return _Core(model, runner, backend_name, config, costs.model, kv_cache)


def _gather_ranks(
    options: EngineOptions, config: ModelConfig, place: Place | None
) -> Leader | None:
    """All ranks of the engine, this one the first of them; None: it is the only one."""
    size, device = options.tensor_parallel, resolve_device(options.device)
    if size == 1:
        return None
    check_ranks(size, device)
    check_model(config)
    if options.cuda_graphs == "on":
        raise ConfigError("cuda_graphs: on is not possible with more than one rank; try auto")
    processes = None
    if place is None:
        plain = asdict(replace(options, calibration="off"))
        del plain["limits"]
        processes = FollowerProcesses(size, plain)
        place = processes.place
    try:
        return Leader(place, device, processes)
    except BaseException:
        if processes is not None:
            processes.end()
        raise


def load_subject(options: EngineOptions) -> tuple[Subject, torch.device]:
    """What an engine of these options looks for a calibration of, and the device to measure on.

    Raises:
        ConfigError: An option is out of range.
        ModelError: The model cannot be loaded or served.
    """
    config = _model_config(options)
    device = resolve_device(options.device)
    model = load_model(config)
    backend_name = _backend_name(options, model, device)
    return _subject(model, backend_name), model.device


def _model_config(options: EngineOptions) -> ModelConfig:
    return ModelConfig(
        model=options.model,
        dtype=options.dtype,
        device=options.device,
        backend=options.backend,
        calibration=options.calibration,
        cuda_graphs=options.cuda_graphs,
        overlap=options.overlap,
        tensor_parallel=options.tensor_parallel,
        quantization=options.quantization,
    )


def _scheduler_config(options: EngineOptions, num_pages: int) -> SchedulerConfig:
    given = num_pages if options.num_pages is None else options.num_pages
    return SchedulerConfig(
        num_pages=given,
        page_size=options.page_size,
        token_budget=options.token_budget,
        max_running=min(options.max_running, options.token_budget),
        sharing=options.sharing,
        policy=options.policy,
        reserve=options.reserve,
    )


def _backend_name(options: EngineOptions, model: LoadedModel, device: torch.device) -> str:
    name = options.backend
    if name == "auto":
        return backend_for(model, options.page_size)
    if name == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(f"backend: triton needs a CUDA device, not {device}; try backend=torch")
    return name


def backend_for(model: LoadedModel, page_size: int) -> str:
    """The attention backend that "auto" stands for with a model, where it is."""
    return "triton" if model.device.type == "cuda" else _cpu_backend_name(model, page_size)


def _cpu_backend_name(model: LoadedModel, page_size: int) -> str:
    head_dims = [layer.head_dim for layer in model.layers]
    reason = why_not_chosen(model.dtype, head_dims, page_size)
    if reason is not None:
        logger.info("attention by PyTorch's operator: %s", reason)
    return "cpu" if reason is None else "torch"


def _make_capture(
    mode: CudaGraphsMode, backend_name: str, device: torch.device
) -> CudaCapture | None:
    has_graphs = device.type == "cuda" and backend_name == "triton"
    if mode == "on" and not has_graphs:
        raise ConfigError(
            f"cuda_graphs: on needs device cuda with the triton backend, not {device} with "
            f"{backend_name}; try auto"
        )
    return CudaCapture(device) if has_graphs and mode != "off" else None


def _overlaps(mode: OverlapMode, device: torch.device) -> bool:
    return device.type == "cuda" if mode == "auto" else mode == "on"


def _subject(model: LoadedModel, backend_name: str) -> Subject:
    return make_subject(model.layers, backend_name, model.dtype, model.device)


def _make_kv_cache(model: LoadedModel, config: SchedulerConfig, layout: KVLayoutName) -> KVCache:
    if model.device.type == "cpu":
        _check_host_memory(model, config)
    return KVCache(
        _kv_shapes(model),
        num_slots=config.num_pages * config.page_size,
        dtype=model.dtype,
        device=model.device,
        layout=layout,
    )


def _check_host_memory(model: LoadedModel, config: SchedulerConfig) -> None:
    """On a CPU a pool takes its memory as it is used: too late to find that there is none."""
    page_bytes = KVCache.bytes_per_slot(_kv_shapes(model), model.dtype) * config.page_size
    asked = config.num_pages * page_bytes
    held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if asked > held:
        raise ConfigError(
            f"num_pages: {config.num_pages:,} pages take {asked / 1e9:,.1f} GB of KV, and this "
            f"machine has {held / 1e9:,.1f} GB; try at most {held // page_bytes // 2:,}"
        )


def _group(model: LoadedModel) -> int:
    return max(layer.num_heads // layer.num_kv_heads for layer in model.layers)


def _kv_shapes(model: LoadedModel) -> list[tuple[int, int]]:
    """(KV heads, head size) of each layer."""
    return [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]


def _default_num_pages(model: LoadedModel, device: torch.device, page_size: int) -> int:
    budget = CPU_POOL_BYTES
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        budget = int(free_bytes * CUDA_POOL_FRACTION)
    slot_bytes = KVCache.bytes_per_slot(_kv_shapes(model), model.dtype)
    num_pages = budget // (slot_bytes * page_size)
    if num_pages < 1:
        raise ConfigError("num_pages: there is no memory left for a single page of KV")
    return int(num_pages)
