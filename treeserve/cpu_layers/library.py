"""The compiled kernels of a model's layers as Python calls them."""

import ctypes
from ctypes import c_double, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from treeserve.attention.cpu_build import library_path
from treeserve.attention.cpu_packed import why_not_chosen
from treeserve.cpu_layers.panels import PANEL
from treeserve.kv_layout import LANES
from treeserve.large_pages import ask_for_large_pages

_ALWAYS_FRESH_BYTES = 32 << 20
"""More than glibc's allocator ever keeps: each time new pages, which in thousands take as long as
the logits of 128 rows that are written there."""


class LayerLibrary:
    """States are bfloat16 without gaps, and what is returned is new.

    Args:
        path: Of the library, which can be loaded here.
    """

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        pointer, number = c_void_p, c_int64
        self._linear = _declare(
            library.treeserve_linear,
            [pointer, number, *[pointer] * 4, *[number] * 5],
        )
        self._normalise = _declare(
            library.treeserve_normalise, [*[pointer] * 3, number, number, c_double, number]
        )
        self._rotate = _declare(
            library.treeserve_rotate, [pointer, number, pointer, pointer, *[number] * 4]
        )

    def linear(
        self,
        states: Tensor,
        panels: Tensor,
        scales: Tensor | None,
        bias: Tensor | None,
        out_features: int,
    ) -> Tensor:
        """[..., out_features] of states [..., in_features].

        Args:
            states: Any number of rows.
            panels: [num_panels, in_features / 2, PANEL, 2] bfloat16, or int8 with scales
            scales: [out_features] float32, or None
            bias: [out_features] bfloat16, or None
            out_features: Of them the last panel may hold fewer than PANEL.
        """
        return self._multiply(states, panels, scales, bias, out_features, is_gated=False)

    def gated_linear(
        self,
        states: Tensor,
        panels: Tensor,
        scales: Tensor | None,
        bias: Tensor | None,
        out_features: int,
    ) -> Tensor:
        """[..., out_features]: silu(gates) * ups, each rounded as by itself.

        Args:
            states: As for `linear`.
            panels: As for `linear`, the gates' and then the ups'.
            scales: [2 * out_features] float32, or None
            bias: [2 * out_features] bfloat16, or None
            out_features: Gates, and ups.
        """
        return self._multiply(states, panels, scales, bias, out_features, is_gated=True)

    def _multiply(
        self,
        states: Tensor,
        panels: Tensor,
        scales: Tensor | None,
        bias: Tensor | None,
        out_features: int,
        *,
        is_gated: bool,
    ) -> Tensor:
        in_features = 2 * panels.shape[1]
        _check("states", states)
        if states.shape[-1] != in_features:
            raise ValueError(f"states: {in_features} numbers a row, not {states.shape[-1]}")
        num_panels = -(-out_features // PANEL) * (1 + is_gated)
        if len(panels) != num_panels:
            raise ValueError(f"panels: {num_panels} hold the outputs, not {len(panels)}")
        if panels.data_ptr() % PANEL:
            raise ValueError(f"panels: are to begin at a multiple of {PANEL} bytes")
        out = states.new_empty(*states.shape[:-1], out_features)
        if out.nbytes > _ALWAYS_FRESH_BYTES:
            ask_for_large_pages(out)
        self._linear(
            states.data_ptr(),
            in_features,
            panels.data_ptr(),
            None if scales is None else scales.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            states.numel() // in_features,
            in_features,
            out_features,
            is_gated,
            torch.get_num_threads(),
        )
        return out

    def normalise(self, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """[..., size]: weight * states / sqrt(mean(states²) + epsilon), row by row.

        Args:
            states: [..., size]
            weight: [size] bfloat16
            epsilon: Added to the mean.
        """
        _check("states", states)
        _check("weight", weight)
        size = weight.shape[0]
        if states.shape[-1] != size:
            raise ValueError(f"states: {size} numbers a row, not {states.shape[-1]}")
        out = torch.empty_like(states)
        self._normalise(
            states.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            states.numel() // size,
            size,
            epsilon,
            torch.get_num_threads(),
        )
        return out

    def rotate_in_place(self, heads: Tensor, num_rotated: int, cos: Tensor, sin: Tensor) -> None:
        """Turn the first heads of every row by its position.

        Args:
            heads: [num_rows, num_heads, head_dim]
            num_rotated: How many heads of a row, from the first on.
            cos, sin: [num_rows, head_dim] of the rows' angles.
        """
        num_rows, num_heads, head_dim = heads.shape
        for name, tensor in (("heads", heads), ("cos", cos), ("sin", sin)):
            _check(name, tensor)
        if cos.shape != (num_rows, head_dim) or sin.shape != cos.shape:
            raise ValueError(
                f"cos, sin: [{num_rows}, {head_dim}], not {list(cos.shape)}, {list(sin.shape)}"
            )
        self._rotate(
            heads.data_ptr(),
            num_heads * head_dim,
            cos.data_ptr(),
            sin.data_ptr(),
            num_rows,
            num_rotated,
            head_dim,
            torch.get_num_threads(),
        )


def why_no_library() -> str | None:
    """Why layers are left to PyTorch on this machine; None: `load_library` gives the kernels.

    They are compiled first where they are not there yet and may be.
    """
    return why_not_chosen(torch.bfloat16, [LANES], LANES)


def load_library() -> LayerLibrary:
    """The compiled kernels, where `why_no_library` finds no reason against them."""
    return LayerLibrary(library_path())


def _declare(function: Any, arguments: list[Any]) -> Any:
    function.argtypes = arguments
    function.restype = None
    return function


def _check(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.bfloat16:
        raise TypeError(f"{name}: bfloat16 is read, not {tensor.dtype}")
    if not tensor.is_contiguous():
        raise TypeError(f"{name}: is to be contiguous")
