"""The options of `treeserve serve` for a model that is spread over several processes."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from treeserve.errors import ConfigError

if TYPE_CHECKING:
    from treeserve.ranks.group import Place


def add_rank_options(group: "argparse._ArgumentGroup") -> None:
    """Declare them."""
    group.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N",
        help="spread the model over N processes, a GPU each where there are any; the others are "
        "started and ended by this one, or all of them by torchrun; default: %(default)s",
    )  # fmt: skip


def read_place(args: argparse.Namespace) -> "Place | None":
    """This process' place among those that torchrun has started; None: it was not torchrun.

    Raises:
        ConfigError: What is asked for does not go together.
    """
    size = args.tensor_parallel
    if size < 1:
        raise ConfigError(f"tensor_parallel: must be at least 1, got {size}")
    if size > 1 and args.prefix_folder is not None:
        raise ConfigError(
            "prefix_folder: not with --tensor-parallel: this process has the KV of some heads only"
        )
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from treeserve.ranks.torchrun import torchrun_place

    return torchrun_place(os.environ, size)


def follow_along(place: "Place", engine_options: dict[str, Any]) -> int:
    """Be one of the other ranks, until the first ends."""
    from treeserve.config import EngineOptions
    from treeserve.follower import follow

    return follow(place, EngineOptions(**engine_options))
