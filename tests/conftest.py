"""Checkpoints that several tests read; each is made once per test process."""

import os

# Triton decides when a function is decorated, its own library's when it is first imported.
os.environ["TRITON_INTERPRET"] = "1"
# Tests run side by side, one to a core, their servers too: more threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# What somebody has measured on this machine must not decide what is planned in a test; a test that
# stores something chooses a folder of its own.
os.environ["TREESERVE_CACHE"] = "/nonexistent/treeserve"

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
import transformers

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint_of() -> Iterator[functools.partial]:
    """A function from a family's name to the folder of its tiny random checkpoint."""
    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def make(family: str) -> Path:
            return tiny_models.save_checkpoint(Path(folder) / family, family)

        yield make
