"""What a result was measured on: device, versions and date."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from treeserve.calibration.subject import cpu_name

_PACKAGES = ("torch", "triton", "transformers", "flashinfer-python", "treeserve")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Plain data that stands at the head of every result."""
    versions = {"python": platform.python_version()}
    versions |= {package: found for package in _PACKAGES if (found := _version(package))}
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return {
        "device": _describe_device(device),
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: torch.device) -> int | None:
    """Of the device's memory, after what PyTorch keeps unused is given back; None: nobody knows."""
    if device.type != "cuda":
        return _free_host_bytes()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return free


def _free_host_bytes() -> int | None:
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _describe_device(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name = platform.machine()
        return {"type": "cpu", "name": name, "processor": cpu_name(), "threads": threads}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "capability": f"{properties.major}.{properties.minor}",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
