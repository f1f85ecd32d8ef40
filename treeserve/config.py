"""Options of the engine, in small frozen sections that are checked when they are built."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias, get_args

from treeserve.errors import ConfigError
from treeserve.types import MAX_TREE_DEPTH

DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
BackendName: TypeAlias = Literal["auto", "reference", "torch", "cpu", "triton"]
SharingMode: TypeAlias = Literal["on", "always", "off"]
PolicyName: TypeAlias = Literal["tree", "fcfs", "priority", "longest-prefix"]
CalibrationMode: TypeAlias = Literal["auto", "measure", "off"]
CudaGraphsMode: TypeAlias = Literal["auto", "on", "off"]
OverlapMode: TypeAlias = Literal["auto", "on", "off"]
QuantizationName: TypeAlias = Literal["none", "int8"]

DEFAULT_PAGE_SIZE = 16
DEFAULT_TOKEN_BUDGET = 1024
DEFAULT_MAX_RUNNING = 256
DEFAULT_RESERVE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """How much one call may ask for; more is the caller's error, which names the limit."""

    max_prompt_tokens: int | None = None
    """Of each prompt. None: what the model takes."""
    max_n: int = 1024
    """Samples of one prompt."""
    max_drawn_tokens: int | None = None
    """n × max_tokens, over all prompts of a call. None: no limit."""
    max_tree_nodes: int = 4096
    max_tree_depth: int = MAX_TREE_DEPTH
    """Levels of branches beneath a trunk."""
    max_stop_strings: int = 16

    def __post_init__(self) -> None:
        for field_ in fields(self):
            value = getattr(self, field_.name)
            least = 0 if field_.name in ("max_tree_depth", "max_stop_strings") else 1
            if value is not None:
                _require_at_least(field_.name, value, least)
        if self.max_tree_depth > MAX_TREE_DEPTH:
            raise ConfigError(
                f"max_tree_depth: must be at most {MAX_TREE_DEPTH}, got {self.max_tree_depth}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Everything that decides how an engine is built; `treeserve serve` has the same options."""

    model: str = "embedded"
    """"embedded", a folder of a checkpoint, or a hub name."""
    dtype: DtypeName = "auto"
    """auto: as the checkpoint was saved."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    backend: BackendName = "auto"
    """Of attention. auto: triton on cuda; on a CPU cpu, a compiled kernel, for bfloat16 where there
    is one, else torch.
    """
    sharing: SharingMode = "on"
    """on: where it pays; always: wherever a token is shared; off: ordinary attention, every sample
    alone, for comparison.
    """
    num_pages: int | None = None
    """Pages of the KV pool. None: 1 GiB on a CPU, 80% of the free memory on cuda."""
    page_size: int = DEFAULT_PAGE_SIZE
    """Tokens of a page."""
    token_budget: int = DEFAULT_TOKEN_BUDGET
    """Rows of one step, at most."""
    max_running: int = DEFAULT_MAX_RUNNING
    """Samples that decode at once, at most."""
    policy: PolicyName = "tree"
    """Who is admitted next. tree: what shares first, with ageing; fcfs: first come, first served;
    priority: the highest priority first; longest-prefix: for comparison, it starves.
    """
    reserve: float = DEFAULT_RESERVE
    """Part of the pages a sample may need in the end that is kept free for it; 1: samples are never
    preempted.
    """
    calibration: CalibrationMode = "auto"
    """measure: what `treeserve calibrate` has measured on this device, or a measurement now; auto:
    that on cuda, else what it has measured, if it has; off: built-in costs, so that plans are the
    same on every machine.
    """
    cuda_graphs: CudaGraphsMode = "auto"
    """Whether steps in which every sample decodes are launched as one CUDA graph each. auto: on
    cuda with the triton backend; on: there, or an error; off: kernel by kernel.
    """
    overlap: OverlapMode = "auto"
    """on: the next step is decided and launched while the device works on this one; off: one after
    the other; auto: on with cuda, off with a CPU, where both would share the processor.
    """
    tensor_parallel: int = 1
    """Processes over which the model is spread, a GPU each where there are any; this one is the
    first of them. 1: the model is here as a whole.
    """
    quantization: QuantizationName = "none"
    """Of the linear layers' weights, at load. int8: whole numbers with a scale for each output, for
    bfloat16 on a CPU; products take about half the memory and, of few rows, half the time.
    """
    limits: RequestLimits = field(default_factory=RequestLimits)
    """How much one call may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and how it is computed."""

    model: str = "embedded"
    """"embedded", a folder, or a hub name."""
    dtype: DtypeName = "auto"
    """auto: as the checkpoint was saved."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", …; auto: cuda where there is one."""
    backend: BackendName = "auto"
    """auto: triton on cuda, torch on a CPU."""
    calibration: CalibrationMode = "auto"
    """measure: the stored calibration, or a new one; auto: that on cuda, else what is stored; off:
    built-in costs.
    """
    cuda_graphs: CudaGraphsMode = "auto"
    """auto: on cuda with the triton backend; on: there, or an error; off: never."""
    overlap: OverlapMode = "auto"
    """Of deciding a step and computing the one before. auto: on with cuda, off with a CPU."""
    tensor_parallel: int = 1
    """Ranks over which the model is spread; the process group of more than one is there already."""
    quantization: QuantizationName = "none"
    """Of the linear layers' weights; int8 is for bfloat16 on a CPU, with one rank."""

    def __post_init__(self) -> None:
        _require_choice("dtype", self.dtype, get_args(DtypeName))
        _require_choice("backend", self.backend, get_args(BackendName))
        _require_choice("calibration", self.calibration, get_args(CalibrationMode))
        _require_choice("cuda_graphs", self.cuda_graphs, get_args(CudaGraphsMode))
        _require_choice("overlap", self.overlap, get_args(OverlapMode))
        _require_choice("quantization", self.quantization, get_args(QuantizationName))
        _require_at_least("tensor_parallel", self.tensor_parallel, 1)
        if self.quantization != "none" and self.tensor_parallel > 1:
            raise ConfigError(
                f"quantization: {self.quantization} is not possible with tensor_parallel "
                f"{self.tensor_parallel}; try none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """The pool, the token budget, and whether attention shares."""

    num_pages: int
    """Pages in the pool."""
    page_size: int = DEFAULT_PAGE_SIZE
    """Slots in a page."""
    token_budget: int = DEFAULT_TOKEN_BUDGET
    """Rows of one step, at most; longer prompts are computed in several steps."""
    max_running: int = DEFAULT_MAX_RUNNING
    """Samples that decode at once, at most."""
    kept_logits: int = 32
    """Prompt ends whose logits are kept, so that more samples compute no prompt token."""
    sharing: SharingMode = "on"
    """on: share where it pays, by the cost model; always: wherever a token is shared; off: ordinary
    attention, every sample alone, over the same stored KV.
    """

    policy: PolicyName = "tree"
    """Who is admitted next. tree: what shares first, with ageing; fcfs: first come, first served;
    priority: the highest priority first; longest-prefix: for comparison, it starves.
    """
    reserve: float = DEFAULT_RESERVE
    """Part of the pages a sample may need in the end that is kept free for it. 1: samples are never
    preempted; less: more of them run at once, and the newest give way when memory runs out.
    """
    retained_fraction: float = 0.5
    """Part of the pool that retained prefixes may fill."""
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    """Shares of tenants under load, by tenant; 1 where nothing else is said."""

    def __post_init__(self) -> None:
        _require_choice("sharing", self.sharing, get_args(SharingMode))
        _require_choice("policy", self.policy, get_args(PolicyName))
        _require_fraction("reserve", self.reserve)
        _require_fraction("retained_fraction", self.retained_fraction)
        for tenant, weight in self.tenant_weights.items():
            if not 0 < weight < math.inf:
                raise ConfigError(f"tenant_weights: {tenant!r} must be above 0, got {weight}")
        for name in ("num_pages", "page_size", "token_budget", "max_running", "kept_logits"):
            _require_at_least(name, getattr(self, name), 1)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}")


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}: must be at least {least}, got {value}")


def _require_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: must be between 0 and 1, got {value}")
