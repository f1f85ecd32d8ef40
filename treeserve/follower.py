"""A rank other than the first: computes along what rank 0 tells it, for as long as it does."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from treeserve.building import build_follower
from treeserve.config import EngineOptions
from treeserve.errors import RankLost, TreeserveError
from treeserve.model import resolve_device
from treeserve.ranks.group import Place, RankGroup
from treeserve.ranks.step_message import NUM_ARRAYS, StepReader

logger = logging.getLogger(__name__)


def follow(place: Place, options: EngineOptions) -> int:
    """Follow rank 0 to its end; the status of this process: 0, or 1 if it was lost on the way.

    Raises:
        ConfigError, ModelError: As when an engine is built.
    """
    # Whoever ends the engine tells rank 0, which lets its requests end, and then this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    device = resolve_device(options.device)
    try:
        group = RankGroup(place, device)
        runner = build_follower(options, group)
        reader = StepReader()
        while arrays := group.hear(NUM_ARRAYS):
            if not len(arrays[0]):
                break
            step, num_last_drawn = reader.read(arrays)
            last_drawn = None
            if num_last_drawn:
                last_drawn = torch.zeros(num_last_drawn, dtype=torch.int64, device=runner.device)
                group.share(last_drawn)
            try:
                runner.compute_along(step, last_drawn)
            except Exception as error:
                raise RankLost(f"step {step.number}: {error}") from error
    except RankLost as error:
        print(f"treeserve: rank {place.rank}: {error}", file=sys.stderr)
        return 1
    group.close()
    return 0


def main() -> int:
    """For a process that rank 0 has started: what to follow comes on standard input."""
    told: Mapping[str, Any] = json.loads(sys.stdin.readline())
    place = Place(told["place"]["rank"], told["place"]["size"], Path(told["place"]["store"]))
    threading.Thread(target=_end_with_leader, name="treeserve-leader-watch", daemon=True).start()
    try:
        return follow(place, EngineOptions(**told["options"]))
    except TreeserveError as error:
        print(f"treeserve: rank {place.rank}: {error}", file=sys.stderr)
        return 1


def _end_with_leader() -> None:
    """Standard input ends when rank 0 does, whatever ends it; a model's work is not waited for."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
