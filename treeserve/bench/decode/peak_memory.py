"""The most memory that one case takes, measured in a process that does nothing else."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from treeserve.bench.decode.sides import attention_of, make_side
from treeserve.bench.decode.source import ModelSource
from treeserve.config import SchedulerConfig
from treeserve.errors import TreeserveError
from treeserve.scheduler.plan.cost import CostModel

_STATUS = Path("/proc/self/status")
_STEPS = 4
"""That are decoded after all samples do."""


class MemoryNotMeasured(TreeserveError):
    """Says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMemory:
    """Of one process that loads the model and decodes one batch, with sharing on."""

    program_bytes: int
    """Resident before the model is loaded: Python, PyTorch, transformers."""
    peak_bytes: int
    """Resident at most, from the process's beginning to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTask:
    """What that process is to do."""

    source: ModelSource
    backend: str
    costs: CostModel
    threads: int
    num_pages: int
    token_budget: int
    max_tokens: int


def measure_memory(task: MemoryTask, prompts: Sequence[tuple[int, ...]]) -> CaseMemory:
    """Do it in a process of its own.

    Raises:
        MemoryNotMeasured: This system does not tell, or the process failed.
    """
    if not _STATUS.exists():
        raise MemoryNotMeasured("only Linux tells a process's peak")
    told = json.dumps({"task": asdict(task), "prompts": prompts})
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=told, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"status {done.returncode}"
        raise MemoryNotMeasured(f"its process failed: {reason}")
    return CaseMemory(**json.loads(done.stdout))


def _run_told() -> None:
    """What the process does: read the task, decode, write what it took."""
    told = json.load(sys.stdin)
    task = told["task"]
    source, costs = ModelSource(**task.pop("source")), CostModel(**task.pop("costs"))
    program_bytes = _kilobytes("VmRSS") << 10
    _decode(MemoryTask(**task, source=source, costs=costs), told["prompts"])
    peak_bytes = _kilobytes("VmHWM") << 10
    print(json.dumps(asdict(CaseMemory(program_bytes=program_bytes, peak_bytes=peak_bytes))))


def _decode(task: MemoryTask, prompts: Sequence[Sequence[int]]) -> None:
    torch.set_num_threads(task.threads)
    model = task.source.load()
    config = SchedulerConfig(
        num_pages=task.num_pages,
        token_budget=task.token_budget,
        max_running=len(prompts),
        reserve=1.0,
    )
    side = make_side(model, attention_of(model, task.backend, config), config, task.costs)
    side.start([tuple(prompt) for prompt in prompts], task.max_tokens)
    side.step_until_all_decode(len(prompts))
    for _ in range(_STEPS):
        side.step()


def _kilobytes(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    fields: dict[str, Any] = dict(line.split(":", 1) for line in lines)
    return int(fields[name].split()[0])


if __name__ == "__main__":
    try:
        _run_told()
    except TreeserveError as error:
        sys.exit(str(error).splitlines()[0])
