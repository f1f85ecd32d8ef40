"""The CPU attention kernel's library as Python calls it: plans, workspaces, one call a layer."""

import ctypes
import weakref
from ctypes import POINTER, Structure, c_double, c_int64, c_void_p
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from treeserve.errors import KernelError
from treeserve.kv_cache import LayerCache
from treeserve.scheduler.step import Int32Array, Step

_MAPPED = Path("/proc/self/maps")


class _StepArrays(Structure):
    """As in kernels/cpu/plan.h."""

    _fields_ = (
        ("positions", c_void_p),
        ("item_rows", c_void_p),
        ("item_row_starts", c_void_p),
        ("item_slots", c_void_p),
        ("item_slot_starts", c_void_p),
        ("item_slot_ends", c_void_p),
        ("item_start_positions", c_void_p),
        ("num_items", c_int64),
        ("num_rows", c_int64),
        ("group", c_int64),
        ("num_kv_heads", c_int64),
        ("window", c_int64),
        ("num_threads", c_int64),
    )


class _Layer(Structure):
    """As in kernels/cpu/attention.cpp."""

    _fields_ = (
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("out", c_void_p),
        ("k_blocks", c_void_p),
        ("v_blocks", c_void_p),
        ("write_slots", c_void_p),
        ("sinks", c_void_p),
        ("q_row", c_int64),
        ("q_head", c_int64),
        ("k_row", c_int64),
        ("k_head", c_int64),
        ("v_row", c_int64),
        ("v_head", c_int64),
        ("num_rows", c_int64),
        ("num_kv_heads", c_int64),
        ("group", c_int64),
        ("head_dim", c_int64),
        ("num_threads", c_int64),
        ("scaling", c_double),
        ("softcap", c_double),
    )


class CpuPlan:
    """A step's units of work, for all layers of one window and shape."""

    def __init__(self, library: ctypes.CDLL, address: int) -> None:
        self.address = address
        weakref.finalize(self, library.treeserve_free_plan, address)


class CpuLibrary:
    """The loaded library, and the memory that its calls keep; one call at a time.

    Args:
        path: Of the library.

    Raises:
        KernelError: It cannot be loaded beside this PyTorch.
    """

    def __init__(self, path: Path) -> None:
        if not shares_openmp():
            raise KernelError(
                "CPU kernel: PyTorch runs its threads with another library than GNU OpenMP "
                "(libgomp.so.1); two would wait for each other"
            )
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelError(f"CPU kernel: cannot load {path}: {error}") from error
        _declare(self._library)
        self._workspace: int = self._library.treeserve_make_workspace()
        weakref.finalize(self, self._library.treeserve_free_workspace, self._workspace)

    def make_plan(self, step: Step, group: int, num_kv_heads: int, window: int | None) -> CpuPlan:
        """Work out the units of a step; nothing of the step is needed afterwards.

        Args:
            step: Whose plan it is.
            group: Query heads per KV head.
            num_kv_heads: Of the layers.
            window: Of the layers; None: they see everything.
        """
        plan = step.plan
        arrays = _StepArrays(
            *map(
                _address,
                (
                    step.positions,
                    plan.item_rows,
                    plan.item_row_starts,
                    plan.item_slots,
                    plan.item_slot_starts,
                    plan.item_slot_ends,
                    plan.item_start_positions,
                ),
            ),
            plan.num_items,
            plan.num_rows,
            group,
            num_kv_heads,
            window or 0,
            torch.get_num_threads(),
        )
        return CpuPlan(self._library, self._library.treeserve_make_plan(ctypes.byref(arrays)))

    def attend(
        self,
        plan: CpuPlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        storage: LayerCache,
        write_slots: Int32Array,
        out: Tensor,
        *,
        scaling: float,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> None:
        """Store K and V in their slots, then attend.

        Args:
            plan: Of the step, for layers of this kind.
            q: [num_rows, num_heads, head_dim] bfloat16, as are all but the sinks; each head's
                numbers lie side by side
            k, v: [num_rows, num_kv_heads, head_dim]
            storage: The layer's, packed.
            write_slots: [num_rows]
            out: [num_rows, num_heads, head_dim], contiguous
            scaling: Factor of the logits.
            softcap: As for AttentionBackend.
            sinks: [num_heads] float32, contiguous
        """
        num_rows, num_heads, head_dim = q.shape
        num_kv_heads = k.shape[1]
        _check(q, k, v, out)
        layer = _Layer(
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            out.data_ptr(),
            storage.k.data_ptr(),
            storage.v.data_ptr(),
            _address(write_slots),
            None if sinks is None else sinks.data_ptr(),
            q.stride(0),
            q.stride(1),
            k.stride(0),
            k.stride(1),
            v.stride(0),
            v.stride(1),
            num_rows,
            num_kv_heads,
            num_heads // num_kv_heads,
            head_dim,
            torch.get_num_threads(),
            scaling,
            softcap or 0.0,
        )
        self._library.treeserve_attend(ctypes.byref(layer), plan.address, self._workspace)


def shares_openmp() -> bool:
    """Whether PyTorch's threads are those of GNU OpenMP, which the library's are."""
    if not _MAPPED.exists():
        return False
    files = (line.rpartition("/")[2] for line in _MAPPED.read_text(errors="replace").splitlines())
    return any(name.startswith("libgomp.so.1") for name in files)


def _declare(library: ctypes.CDLL) -> None:
    library.treeserve_make_plan.argtypes = [POINTER(_StepArrays)]
    library.treeserve_make_plan.restype = c_void_p
    library.treeserve_free_plan.argtypes = [c_void_p]
    library.treeserve_free_plan.restype = None
    library.treeserve_make_workspace.argtypes = []
    library.treeserve_make_workspace.restype = c_void_p
    library.treeserve_free_workspace.argtypes = [c_void_p]
    library.treeserve_free_workspace.restype = None
    library.treeserve_attend.argtypes = [POINTER(_Layer), c_void_p, c_void_p]
    library.treeserve_attend.restype = None


def _address(array: Int32Array) -> int:
    if array.dtype != np.int32 or not array.flags.c_contiguous:
        raise TypeError(f"int32 without gaps is read, not {array.dtype} of strides {array.strides}")
    address: int = array.ctypes.data
    return address


def _check(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out)):
        if tensor.dtype != torch.bfloat16:
            raise TypeError(f"{name}: bfloat16 is read, not {tensor.dtype}")
        if tensor.stride(-1) != 1 or tensor.shape[-1] % 16:
            raise TypeError(f"{name}: a head's numbers are to lie side by side, in sixteens")
    if not out.is_contiguous():
        raise TypeError("out: is to be contiguous")
