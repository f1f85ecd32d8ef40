"""Options of the engine, in small frozen sections that are checked when they are built."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from treeserve.errors import ConfigError

DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
BackendName: TypeAlias = Literal["auto", "reference", "torch", "triton"]
SharingMode: TypeAlias = Literal["on", "always", "off"]


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

    def __post_init__(self) -> None:
        _require_choice("dtype", self.dtype, get_args(DtypeName))
        _require_choice("backend", self.backend, get_args(BackendName))


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """The pool, the token budget, and whether attention shares."""

    num_pages: int
    """Pages in the pool."""
    page_size: int = 16
    """Slots in a page."""
    token_budget: int = 1024
    """Rows of one step, at most; longer prompts are computed in several steps."""
    max_running: int = 256
    """Samples that decode at once, at most."""
    kept_logits: int = 32
    """Prompt ends whose logits are kept, so that more samples compute no prompt token."""
    sharing: SharingMode = "on"
    """on: share where it pays, by the cost model; always: wherever a token is shared; off: ordinary
    attention, every sample alone, over the same stored KV.
    """

    def __post_init__(self) -> None:
        _require_choice("sharing", self.sharing, get_args(SharingMode))
        for name in ("num_pages", "page_size", "token_budget", "max_running", "kept_logits"):
            _require_at_least(name, getattr(self, name), 1)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}")


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}: must be at least {least}, got {value}")
