"""What a calibration holds for: the device, the attention's shape and the software, by content."""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from treeserve.probe import AttentionLayer

FORMAT_VERSION = 2
"""Of the stored file and of what its constants mean."""

_PACKAGE = Path(__file__).parent.parent
_CODE_FOLDERS = (_PACKAGE / "attention", _PACKAGE / "kernels")
_CODE_SUFFIXES = (".py", ".cpp", ".h")
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Two engines whose subjects are equal have the same costs."""

    device: str
    """"cpu" or "cuda" and what kind of one."""
    num_threads: int
    """Of PyTorch on a CPU; 0 on cuda."""
    backend: str
    dtype: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    softcap: float | None
    num_layers: int
    """What is worked out once a step is shared out among them."""
    treeserve: str
    torch: str
    triton: str
    code: str
    """Digest of the attention code, which may change between two versions."""

    @property
    def key(self) -> str:
        """Names the stored file."""
        content = json.dumps({"format": FORMAT_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:24]


def make_subject(
    layers: Sequence[AttentionLayer], backend: str, dtype: torch.dtype, device: torch.device
) -> Subject:
    """The subject of a model's attention on this machine, with PyTorch's threads as they are set.

    Where layers differ, the first that sees everything stands for all.
    """
    layer = next((layer for layer in layers if layer.window is None), layers[0])
    on_cpu = device.type == "cpu"
    return Subject(
        device=f"cpu: {cpu_name()}" if on_cpu else f"cuda: {torch.cuda.get_device_name(device)}",
        num_threads=torch.get_num_threads() if on_cpu else 0,
        backend=backend,
        dtype=str(dtype).removeprefix("torch."),
        num_heads=layer.num_heads,
        num_kv_heads=layer.num_kv_heads,
        head_dim=layer.head_dim,
        softcap=layer.softcap,
        num_layers=len(layers),
        treeserve=_version("treeserve"),
        torch=torch.__version__,
        triton=_version("triton"),
        code=_code_digest(),
    )


def cpu_name() -> str:
    """Model and instruction set; hypervisors hide the model's own name behind its family's."""
    fields: dict[str, str] = {}
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    parts = [fields.get("model name") or platform.processor() or platform.machine()]
    parts += [f"{name} {fields[name]}" for name in ("cpu family", "model") if name in fields]
    return ", ".join([*parts, torch.backends.cpu.get_cpu_capability()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _code_digest() -> str:
    digest = hashlib.sha256()
    for folder in _CODE_FOLDERS:
        files = (path for path in folder.rglob("*") if path.suffix in _CODE_SUFFIXES)
        for path in sorted(files):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
