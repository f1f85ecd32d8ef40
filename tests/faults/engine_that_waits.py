"""`treeserve` with an engine that stands still, its streams in mid-course, until SIGUSR1.

It makes no step before the 12 streams of a test are there, and none once all of them draw.
"""

import asyncio
import signal
import sys

from held_engine import HeldEngine

from treeserve.commands.main import main
from treeserve.loop import EngineLoop

NUM_STREAMS = 12


def hold_engines() -> list[HeldEngine]:
    """Those that are started from now on; the list has them then."""
    start, held = EngineLoop.start, []

    def start_held(self: EngineLoop) -> None:
        held.append(HeldEngine(self._engine))
        held[0].hold(num_requests=NUM_STREAMS)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, held[0].release)
        start(self)

    EngineLoop.start = start_held
    return held


if __name__ == "__main__":
    hold_engines()
    sys.exit(main())
