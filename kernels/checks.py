"""What the kernels ask of their arguments, checked before a launch; nothing is converted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from treeserve.kernels.work_list import WorkList

MAX_GRID_YZ = 65_535
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
        "tile_row_offsets": work.num_tiles,
    }
    for name, size in sizes.items():
        check_index(name, getattr(work, name), size, device)
    if work.rows_per_tile < 1:
        raise ValueError(f"rows_per_tile: {work.rows_per_tile}, expected at least 1")


def check_grid(name: str, size: int) -> None:
    """A grid's second and third dimensions end early."""
    if size > MAX_GRID_YZ:
        raise ValueError(f"{name}: {size}, expected at most {MAX_GRID_YZ}")
