"""Rank 0's side: every step is told to the others before it is computed; a lost rank ends it."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from treeserve.errors import RankLost
from treeserve.ranks.group import Place, RankGroup
from treeserve.ranks.processes import FollowerProcesses
from treeserve.ranks.step_message import NUM_ARRAYS, StepWriter
from treeserve.scheduler.step import Step

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 20.0
_NOTHING = np.zeros(0, np.int32)


class Leader:
    """From the first step that could not be computed together on, there are no others.

    Args:
        place: Of this process, which is rank 0.
        device: What the model runs on.
        processes: The other ranks where they were started from here; None: torchrun did, and ends
            all of them when one ends.

    Raises:
        RankLost: The others did not come.
    """

    def __init__(
        self, place: Place, device: torch.device, processes: FollowerProcesses | None
    ) -> None:
        self._processes = processes
        self._writer = StepWriter()
        self._failure: str | None = None
        self._is_waiting_for_none = threading.Event()
        if processes is not None:
            processes.watch(self._note_loss)
        self.group = RankGroup(place, device)

    def note_loaded(self) -> None:
        """The model is there, on every rank: until the first step none waits for another."""
        self._is_waiting_for_none.set()

    @property
    def failure(self) -> str | None:
        """Why no step can be computed any more; None: nothing is known against it."""
        return self._failure

    @contextmanager
    def together(self, step: Step, last_drawn: Tensor | None) -> Iterator[None]:
        """The others compute what is computed inside.

        Args:
            step: With at least one row.
            last_drawn: [num_draws] int64 on the device: what the step before drew, if anything.

        Raises:
            RankLost: Not all of them can, or not to the end. Which of them have is not known, so
                no later step can be computed either.
        """
        if self._failure is not None:
            raise RankLost(self._failure)
        self._is_waiting_for_none.clear()
        try:
            unread = None if step.token_ids.min() >= 0 else last_drawn
            self.group.tell(self._writer.write(step, 0 if unread is None else len(unread)))
            if unread is not None:
                self.group.share(unread)
            yield
        except Exception as error:
            self._failure = self._failure or f"step {step.number}: {error}"
            raise RankLost(self._failure) from error
        finally:
            self._is_waiting_for_none.set()

    def close(self) -> None:
        """End the other ranks, and the group."""
        self._is_waiting_for_none.set()
        if self._processes is not None:
            self._processes.end()
        elif self._failure is None:
            self.group.tell([_NOTHING] * NUM_ARRAYS)
        self.group.close()

    def _note_loss(self, loss: str) -> None:
        """In a thread of its own, where a process has ended."""
        self._failure = self._failure or loss
        logger.critical("%s: the ranks cannot go on", loss)
        # Gloo fails when a connection closes; nccl may wait for ever, and nothing ends that wait.
        if not self._is_waiting_for_none.wait(_GRACE_SECONDS):
            logger.critical("what they were at does not end; this process does")
            os._exit(1)
