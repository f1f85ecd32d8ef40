"""Checkpoints that several tests read; each is made once per test process."""

import os

# Triton decides when a function is decorated, its own library's when it is first imported.
os.environ["TRITON_INTERPRET"] = "1"
# Tests run side by side, one to a core, their servers too: more threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# What somebody has measured on this machine must not decide what is planned in a test; a test that
# stores something chooses a folder of its own.
os.environ["TREESERVE_CACHE"] = "/nonexistent/treeserve"
# Nor whether it has a compiler; what tests the CPU kernel asks for `cpu_kernel`.
os.environ["TREESERVE_BUILD"] = "off"

import functools
import getpass
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
import transformers
from hypothesis import HealthCheck, settings

# Examples are the same in every run, whatever the machine is busy with: `search` looks for others.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("tests"), derandomize=False)
settings.load_profile("tests")

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint_of() -> Iterator[functools.partial]:
    """A function from a family's name to the folder of its tiny random checkpoint."""
    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def make(family: str) -> Path:
            return tiny_models.save_checkpoint(Path(folder) / family, family)

        yield make


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens, and nobody else can while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def kept_port() -> Iterator[int]:
    """A port that only who names it can listen on: between two servers nobody else is given it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="session")
def cpu_kernel_folder() -> Path:
    """A cache folder with the compiled CPU kernel: built once, for all tests of this machine."""
    from treeserve.attention.cpu_build import build, library_path, missing_instructions
    from treeserve.errors import KernelError

    if missing_instructions():
        pytest.skip(f"the processor has no {', '.join(missing_instructions())}")
    folder = Path(tempfile.gettempdir()) / f"treeserve-tests-{getpass.getuser()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TREESERVE_CACHE", str(folder))
        try:
            build(library_path(), print)
        except KernelError as error:
            pytest.skip(str(error))
    return folder


@pytest.fixture
def cpu_kernel(cpu_kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cpu backend can be made; skips where it cannot be had."""
    monkeypatch.setenv("TREESERVE_CACHE", str(cpu_kernel_folder))
