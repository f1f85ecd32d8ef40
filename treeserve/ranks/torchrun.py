"""What torchrun says of this process' place among the ranks."""

from collections.abc import Mapping

from treeserve.errors import ConfigError
from treeserve.ranks.group import Place


def torchrun_place(environment: Mapping[str, str], size: int) -> Place | None:
    """This process' place; None: torchrun did not start it.

    Args:
        environment: Of the process.
        size: Ranks that are asked for.

    Raises:
        ConfigError: torchrun started another number of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    started = int(environment["WORLD_SIZE"])
    if started != size:
        raise ConfigError(
            f"tensor_parallel: torchrun started {started} processes, and {size} are asked for; "
            f"say --tensor-parallel {started}"
        )
    return Place(int(environment["RANK"]), size)
