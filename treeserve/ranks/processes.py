"""The processes of the other ranks, where rank 0 starts them itself: started, watched, ended."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from treeserve.ranks.group import Place

_END_SECONDS = 10.0


class FollowerProcesses:
    """They end with the process that started them: each reads its standard input to the end.

    Args:
        size: Ranks in all.
        options: Of the engine, as plain data; every rank has the same.
    """

    def __init__(self, size: int, options: Mapping[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="treeserve-ranks-")
        self._is_ending = False
        self.place = Place(0, size, Path(self._folder.name) / "store")
        """Of the process that starts them."""
        self.processes = [self._start(rank, options) for rank in range(1, size)]

    def _start(self, rank: int, options: Mapping[str, Any]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "treeserve.follower"],
            stdin=subprocess.PIPE,
            text=True,
            # Signals of a terminal are for rank 0, which ends the others when it is done.
            start_new_session=True,
            env={**os.environ, "LOCAL_RANK": str(rank)},
        )
        assert process.stdin is not None
        place = {"rank": rank, "size": self.place.size, "store": str(self.place.store)}
        # One that has ended already is noticed by whoever watches it.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"place": place, "options": dict(options)}) + "\n")
            process.stdin.flush()
        return process

    def watch(self, on_loss: Callable[[str], None]) -> None:
        """From now on, the first that ends of itself is told of, in a thread of its own."""
        told = threading.Lock()
        for rank, process in enumerate(self.processes, 1):
            threading.Thread(
                target=self._wait,
                args=(rank, process, told, on_loss),
                name=f"treeserve-rank-{rank}",
                daemon=True,
            ).start()

    def end(self) -> None:
        """End those that still run, and wait for them."""
        self._is_ending = True
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self.processes:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def _wait(
        self,
        rank: int,
        process: "subprocess.Popen[str]",
        told: threading.Lock,
        on_loss: Callable[[str], None],
    ) -> None:
        status = process.wait()
        if not self._is_ending and told.acquire(blocking=False):
            on_loss(f"rank {rank} (process {process.pid}) ended with status {status}")
