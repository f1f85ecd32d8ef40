"""What the kernels ask of their arguments, checked before a launch; nothing is converted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from treeserve.kernels.tiles import NUM_SHAPES
from treeserve.kernels.work_list import WorkList

MAX_GRID_YZ = 65_535
MAX_INT32 = 2**31 - 1
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def check_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def check_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{name}: {tensor.dtype}, expected {expected}")


def check_device(device: torch.device, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(f"{name}: on {tensor.device}, expected {device}")


def check_contiguous(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: strides {tensor.stride()}, expected a contiguous tensor")


def check_dense_last_dim(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.stride(-1) != 1:
            raise ValueError(f"{name}: strides {tensor.stride()}, expected 1 for the last")


def check_index(name: str, tensor: Tensor, size: int, device: torch.device) -> None:
    """An int32 list of this size."""
    check_shape(name, tensor, (size,))
    check_dtype(name, tensor, torch.int32)
    check_device(device, **{name: tensor})
    check_contiguous(**{name: tensor})


def check_work(work: WorkList, num_rows: int, device: torch.device) -> None:
    """The lists fit each other and the number of query rows."""
    num_items = work.item_start_positions.shape[0]
    sizes = {
        "positions": num_rows,
        "item_rows": work.num_states,
        "item_row_starts": num_items + 1,
        "item_slots": work.item_slots.shape[0],
        "item_slot_starts": num_items,
        "item_slot_ends": num_items,
        "item_start_positions": num_items,
        "row_states": work.num_states,
        "row_state_starts": num_rows + 1,
        "tile_items": work.num_tiles,
        "tile_state_starts": work.num_tiles,
        "tile_state_ends": work.num_tiles,
        "tile_kinds": work.num_tiles,
        "shape_starts": NUM_SHAPES + 1,
    }
    for name, size in sizes.items():
        check_index(name, getattr(work, name), size, device)
    rows = work.shape_rows
    if len(rows) != NUM_SHAPES or min(rows) < 0 or max(rows) < 1:
        raise ValueError(f"shape_rows: {rows}, expected rows of {NUM_SHAPES} shapes of tiles")
    if not 0 <= work.widest_shape < NUM_SHAPES:
        raise ValueError(f"widest_shape: {work.widest_shape}, expected one of {NUM_SHAPES}")
    if not rows[work.widest_shape]:
        raise ValueError(f"widest_shape: {work.widest_shape}, of which a tile has no rows")


def check_states(o: Tensor, lse: Tensor, shape: Sequence[int], device: torch.device) -> None:
    """float32 and contiguous, o of this shape and lse of the same but for the last dimension."""
    for name, tensor, own_shape in (("o", o, shape), ("lse", lse, shape[:-1])):
        check_shape(name, tensor, own_shape)
        check_dtype(name, tensor, torch.float32)
        check_device(device, **{name: tensor})
        check_contiguous(**{name: tensor})


def check_output(
    out: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    check_shape("out", out, shape)
    check_dtype("out", out, dtype)
    check_device(device, out=out)
    check_contiguous(out=out)


def check_sinks(
    sinks: Tensor | None, num_heads: int, dtype: torch.dtype, device: torch.device
) -> None:
    if sinks is None:
        return
    check_shape("sinks", sinks, (num_heads,))
    check_dtype("sinks", sinks, dtype)
    check_device(device, sinks=sinks)
    check_contiguous(sinks=sinks)


def check_int32(name: str, size: int) -> None:
    """What kernels count in int32."""
    if size > MAX_INT32:
        raise ValueError(f"{name}: {size}, expected at most {MAX_INT32}")


def check_grid(name: str, size: int) -> None:
    """A grid's second and third dimensions end early."""
    if size > MAX_GRID_YZ:
        raise ValueError(f"{name}: {size}, expected at most {MAX_GRID_YZ}")
