"""The CPU kernels' library: found in the cache folder, or compiled into it."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from treeserve.cache_folder import cache_folder
from treeserve.errors import KernelError
from treeserve.kernels import __path__ as _kernels_path

BUILD_VARIABLE = "TREESERVE_BUILD"
"""Set to "off", nothing is compiled but by `treeserve build-kernels`."""

_INSTRUCTIONS = (
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_bf16",
    "avx512_vnni",
    "fma",
    "bmi1",
)
"""Of the processor, as Linux names them; the library uses no others, so it may be moved."""
_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp", "-w"),
    *("-fno-math-errno", "-fno-trapping-math"),
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni"),
    *("-mfma", "-mbmi"),
)
_CPU_INFO = Path("/proc/cpuinfo")
_TIMEOUT_SECONDS = 300.0


def missing_instructions() -> list[str]:
    """What the library needs and this processor does not have."""
    found = _processor_flags()
    return [name for name in _INSTRUCTIONS if name not in found]


def has_matrix_tiles() -> bool:
    """Whether PyTorch's own operator has AMX here, which the library does not use."""
    return "amx_bf16" in _processor_flags()


def library_path() -> Path:
    """Where the library for this very source is, or will be.

    Raises:
        KernelError: There is no folder for it.
    """
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for path in _sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    try:
        folder = cache_folder()
    except RuntimeError as error:
        raise KernelError("CPU kernel: no home folder; set TREESERVE_CACHE") from error
    return folder / "kernels" / f"cpu-{digest.hexdigest()[:16]}.so"


def find_or_build(report: Callable[[str], None]) -> Path:
    """The library, compiled first where it is not there yet.

    Args:
        report: Is told that it is being compiled, in one line.

    Raises:
        KernelError: It is not there and must not or cannot be compiled; says why.
    """
    path = library_path()
    if path.is_file():
        return path
    if os.environ.get(BUILD_VARIABLE) == "off":
        raise KernelError(
            f"CPU kernel: not built, and {BUILD_VARIABLE}=off; `treeserve build-kernels` builds it"
        )
    return build(path, report)


def build(path: Path, report: Callable[[str], None], *, again: bool = False) -> Path:
    """Compile the library to this path, in whole or not at all; processes take turns.

    Args:
        path: As `library_path` gives it.
        report: Is told that it is being compiled, in one line.
        again: Also where it is there.

    Raises:
        KernelError: There is no compiler, it fails, or the folder cannot be written.
    """
    compiler = find_compiler()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _turn(path.parent):
            if again or not path.is_file():
                report(f"compiling the CPU kernels with {compiler}, once: {path}")
                _compile(compiler, path)
    except OSError as error:
        raise KernelError(f"CPU kernel: cannot write {path}: {error.strerror}") from error
    return path


def find_compiler() -> str:
    """$CXX, else g++.

    Raises:
        KernelError: There is none.
    """
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name)
    if found is None:
        raise KernelError(
            f"CPU kernel: no compiler {name!r}; install g++, or set CXX to a GNU compiler"
        )
    return found


def _compile(compiler: str, path: Path) -> None:
    sources = [str(found) for found in _sources() if found.suffix == ".cpp"]
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".building-", suffix=".so")
    os.close(descriptor)
    try:
        done = subprocess.run(
            [compiler, *_FLAGS, *sources, "-o", temporary],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise KernelError(f"CPU kernel: {compiler} failed: {_first_error(done.stderr)}")
        os.chmod(temporary, 0o755)
        os.replace(temporary, path)
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"CPU kernel: {compiler} took over {_TIMEOUT_SECONDS:.0f} s") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Whoever comes second finds what the first has built."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


def _sources() -> list[Path]:
    folder = Path(next(iter(_kernels_path))) / "cpu"
    return sorted(path for path in folder.iterdir() if path.suffix in (".cpp", ".h"))


def _processor_flags() -> frozenset[str]:
    if not _CPU_INFO.exists():
        return frozenset()
    for line in _CPU_INFO.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()
