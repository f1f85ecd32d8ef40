"""The cpu backend: one call a layer into the compiled kernel, K and V packed in their slots."""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from treeserve.attention.cpu_build import (
    find_or_build,
    has_matrix_tiles,
    library_path,
    missing_instructions,
)
from treeserve.attention.cpu_library import CpuLibrary, CpuPlan
from treeserve.batch import Batch
from treeserve.errors import ConfigError, KernelError
from treeserve.kernels.work_list import WorkList
from treeserve.kv_cache import KVCache
from treeserve.kv_layout import LANES
from treeserve.scheduler.step import Step

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class CpuStep:
    """What every layer of the step needs; units are worked out once per kind of layer."""

    step: Step
    library: CpuLibrary
    _plans: dict[tuple[int, int, int | None], CpuPlan] = field(default_factory=dict)

    def plan(self, group: int, num_kv_heads: int, window: int | None) -> CpuPlan:
        """The step's units for layers of this kind."""
        key = group, num_kv_heads, window
        if key not in self._plans:
            self._plans[key] = self.library.make_plan(self.step, *key)
        return self._plans[key]


class CpuBackend:
    """Attention in bfloat16 with the compiled kernel.

    Args:
        kv_cache: Of bfloat16 in the packed layout, on the CPU.

    Raises:
        ConfigError: The cache is of another kind, or the kernel cannot run here.
    """

    def __init__(self, kv_cache: KVCache) -> None:
        if kv_cache.device.type != "cpu":
            raise ConfigError(f'backend: "cpu" runs on cpu, not on {kv_cache.device}')
        head_dims = [shape.head_dim for shape in kv_cache.layer_shapes]
        unfit = why_unfit(kv_cache.dtype, head_dims)
        if unfit is not None:
            raise ConfigError(f'backend: "cpu" {unfit}; try torch')
        self._kv_cache = kv_cache
        self._library = load_kernel()

    @property
    def shape_rows(self) -> None:
        return None

    @property
    def reads_device_slots(self) -> bool:
        return False

    def prepare(self, step: Step, work: WorkList | None) -> CpuStep:
        return CpuStep(step, self._library)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer_index: int,
        batch: Batch,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        prepared = batch.prepared
        if not isinstance(prepared, CpuStep):
            raise TypeError("the batch was prepared by another backend")
        num_rows, num_heads, head_dim = q.shape
        num_kv_heads = k.shape[1]
        out = q.new_empty(num_rows, num_heads, head_dim)
        self._library.attend(
            prepared.plan(num_heads // num_kv_heads, num_kv_heads, window),
            q,
            k,
            v,
            self._kv_cache.layer(layer_index),
            prepared.step.write_slots,
            out,
            scaling=scaling,
            softcap=softcap,
            sinks=None if sinks is None else sinks.float().contiguous(),
        )
        return out


def load_kernel() -> CpuLibrary:
    """The compiled kernel, built first where it is not there yet.

    Raises:
        ConfigError: It cannot be had here; says why.
    """
    missing = missing_instructions()
    if missing:
        raise ConfigError(f'backend: "cpu" needs {", ".join(missing)}, which the processor has not')
    try:
        return CpuLibrary(find_or_build(_say))
    except KernelError as error:
        raise ConfigError(f'backend: "cpu" cannot run here: {error}') from error


def _say(line: str) -> None:
    """A warning, for whoever waits for it sees that much by default; it comes once a machine."""
    logger.warning("%s", line)


def why_unfit(dtype: torch.dtype, head_dims: list[int]) -> str | None:
    """Why the kernel does not serve such layers, in words that follow its name; None: it does."""
    if dtype != torch.bfloat16:
        return f"is for bfloat16, not for {str(dtype).removeprefix('torch.')}"
    odd = [dim for dim in head_dims if dim % LANES]
    if odd:
        return f"is for heads of a multiple of {LANES} numbers, not of {odd[0]}"
    return None


def why_not_chosen(
    dtype: torch.dtype, head_dims: list[int], page_size: int, *, may_build: bool = True
) -> str | None:
    """Why "auto" leaves such a model to the torch backend; None: it takes the kernel.

    Args:
        dtype: Of the model.
        head_dims: Of its layers.
        page_size: Of the KV pool, in slots.
        may_build: The kernel is compiled if it is not there yet, for an engine is going to need it;
            else that it is not there is no reason.
    """
    unfit = why_unfit(dtype, head_dims)
    if unfit is not None:
        return f"the kernel {unfit}"
    if page_size % LANES:
        return f"pages of {page_size} tokens are no multiple of the kernel's blocks of {LANES}"
    if has_matrix_tiles():
        return "the processor has AMX, which PyTorch's operator uses and the kernel does not"
    missing = missing_instructions()
    if missing:
        return f"the processor has no {', '.join(missing)}"
    try:
        if may_build or library_path().is_file():
            CpuLibrary(find_or_build(_say))
    except KernelError as error:
        return str(error)
    return None
