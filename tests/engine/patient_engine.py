"""An engine that stands still after some steps, so that what it runs outlasts a slow reader."""

import threading
from typing import Any

from treeserve.engine import Engine


class Patience:
    """The engine takes so many steps and, until `go_on`, no more; its inbox is served all along.

    Without it an engine may have drawn all of a long answer before a stalled test has read the
    first token of it.
    """

    def __init__(self, engine: Engine, num_steps: int) -> None:
        self._step = engine.step
        self._num_left = num_steps
        self._goes_on = threading.Event()
        engine.step = self._step_or_wait

    def go_on(self) -> None:
        self._goes_on.set()

    def _step_or_wait(self) -> tuple[list[Any], Any]:
        if self._num_left == 0 and not self._goes_on.wait(0.01):
            return [], None
        self._num_left = max(0, self._num_left - 1)
        return self._step()
