"""`treeserve doctor`: what this installation has, which attention runs here, and why."""

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from treeserve.commands.options import package_version
from treeserve.errors import KernelError

_DESCRIPTION = """\
Say what this installation has and lacks: PyTorch and its threads, a GPU, which attention kernels
run and why, the sandbox for judging programs, guided generation. Changes and compiles nothing.

  treeserve doctor
  treeserve doctor --json
"""
_NAME_WIDTH = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    """Whether it is there and as fast as it can be."""
    detail: str
    """What was found, and where something is missing what to do."""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "doctor", help="what runs here, and what is missing", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Look at everything; 0 whatever is found, for nothing of it is needed by everybody."""
    findings = [look() for look in _LOOKS]
    if args.json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}))
        return 0
    for finding in findings:
        mark = "ok" if finding.ok else "--"
        print(f"{mark}  {finding.name:{_NAME_WIDTH}} {finding.detail}")
    return 0


def _versions() -> Finding:
    packages = ("torch", "transformers", "triton", "grpcio")
    found = [f"{name} {_version(name) or 'missing'}" for name in packages]
    own = f"treeserve {package_version()}, python {platform.python_version()}"
    return Finding("versions", True, ", ".join([own, *found]))


def _threads() -> Finding:
    import torch

    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    detail = f"{threads} of PyTorch's on {cores} cores, {capability}"
    if cores is not None and threads > cores:
        return Finding("threads", False, f"{detail}: more than cores; set OMP_NUM_THREADS={cores}")
    return Finding("threads", True, detail)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("GPU", True, ", ".join(names))
    build = "this PyTorch is a CPU build" if torch.version.cuda is None else "PyTorch sees none"
    return Finding("GPU", False, f"none: {build}; engines run on the CPU")


def _attention_on_gpu() -> Finding:
    import torch

    if _version("triton") is None:
        return Finding("attention, GPU", False, "no triton package; install treeserve[cuda]")
    if not torch.cuda.is_available():
        return Finding("attention, GPU", False, "the triton backend is there, a GPU is not")
    return Finding("attention, GPU", True, "triton")


def _attention_in_bfloat16() -> Finding:
    name = "attention, bfloat16"
    reason = _why_not_compiled()
    if reason is not None:
        return Finding(name, False, f"on the CPU: torch, PyTorch's operator: {reason}")
    from treeserve.attention.cpu_build import library_path

    path = library_path()
    if path.is_file():
        return Finding(name, True, f"on the CPU: cpu, the compiled kernel: {path}")
    return Finding(
        name,
        True,
        "on the CPU: cpu, the compiled kernel; not compiled yet, the first engine does it, or "
        "`treeserve build-kernels` now",
    )


def _attention_in_float32() -> Finding:
    detail = "on the CPU: torch, PyTorch's operator; the compiled kernel is for bfloat16"
    return Finding("attention, float32", True, detail)


def _linear_layers_in_bfloat16() -> Finding:
    name = "linear, bfloat16"
    reason = _why_not_compiled()
    if reason is None:
        return Finding(
            name, True, "on the CPU: the compiled kernels; quantization int8 is possible"
        )
    return Finding(name, False, f"on the CPU: oneDNN, and no quantization: {reason}")


def _why_not_compiled() -> str | None:
    """Why no engine takes the compiled kernels on this machine; None: they do."""
    import torch

    from treeserve.attention.cpu_build import BUILD_VARIABLE, find_compiler, library_path
    from treeserve.attention.cpu_packed import why_not_chosen
    from treeserve.kv_layout import LANES

    try:
        if not library_path().is_file():
            # An engine would try, unless it must not; nothing is compiled here.
            if os.environ.get(BUILD_VARIABLE) == "off":
                return f"it is not built, and {BUILD_VARIABLE}=off; `treeserve build-kernels`"
            find_compiler()
    except KernelError as error:
        return str(error)
    return why_not_chosen(torch.bfloat16, [LANES], LANES, may_build=False)


def _sandbox() -> Finding:
    from treeserve.contest.sandbox.bubblewrap import NoSandbox
    from treeserve.contest.sandbox.sandbox import find_confinement

    try:
        return Finding("sandbox", True, find_confinement().description)
    except NoSandbox as error:
        return Finding("sandbox", False, f"programs are not judged: {' '.join(str(error).split())}")


def _guidance() -> Finding:
    found = _version("llguidance")
    if found is None:
        return Finding("guided generation", False, "no llguidance; install treeserve[guidance]")
    return Finding("guided generation", True, f"llguidance {found}")


def _cache() -> Finding:
    from treeserve.cache_folder import cache_folder

    try:
        return Finding("cache folder", True, str(cache_folder()))
    except RuntimeError:
        return Finding("cache folder", False, "no home folder; set TREESERVE_CACHE")


_LOOKS: tuple[Callable[[], Finding], ...] = (
    _versions,
    _threads,
    _gpu,
    _attention_on_gpu,
    _attention_in_bfloat16,
    _attention_in_float32,
    _linear_layers_in_bfloat16,
    _sandbox,
    _guidance,
    _cache,
)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
