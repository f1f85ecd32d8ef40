"""Cold caches: what is gone through before a run is timed, so that K and V come from memory."""

from pathlib import Path

import torch

_GPU_BYTES = 256 << 20
"""More than any GPU's last-level cache holds."""
_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_CPU_BYTES = 64 << 20
_MOST_CPU_BYTES = 128 << 20
"""Beyond that flushing would take longer than what is timed."""
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class CacheFlush:
    """Throws everything else out of a device's caches, as a model's weights do between two layers.

    Args:
        device: Whose caches they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cpu = device.type == "cpu"
        num_bytes = flush_bytes() if self._on_cpu else _GPU_BYTES
        self._memory = torch.zeros(num_bytes // 8, dtype=torch.int64, device=device)

    def __call__(self) -> None:
        # A CPU may write large memory past its caches, and then nothing is thrown out.
        if self._on_cpu:
            self._memory.sum()
        else:
            self._memory.zero_()


def flush_bytes(caches: Path = _CPU_CACHES) -> int:
    """Twice what a processor's largest cache holds, within reason.

    Args:
        caches: Where Linux tells of them; elsewhere a usual size is taken.
    """
    try:
        largest = max(_size(path.read_text()) for path in caches.glob("index*/size"))
    except (OSError, ValueError, KeyError):
        return _USUAL_CPU_BYTES
    return min(2 * largest, _MOST_CPU_BYTES)


def _size(text: str) -> int:
    """Of such a text as "32768K"."""
    text = text.strip()
    return int(text[:-1]) * _UNITS[text[-1:]]
