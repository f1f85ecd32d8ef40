"""Where the time of a step goes: clocks around the parts of a running engine, by hooks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn

from treeserve.attention.backend import AttentionBackend
from treeserve.kernels.work_list import WorkList
from treeserve.model import LoadedModel
from treeserve.packed_linear import PackedLinear
from treeserve.scheduler.step import Step
from treeserve.types import StepNumbers

ATTENTION, LINEAR, HEAD, NORMS = "attention", "linear_layers", "output_head", "norms"
REST, SAMPLING, BATCH = "rest_of_model", "sampling", "batch"
PLAN, SCHEDULER = "plan", "scheduler"
_FORWARD, _PREPARE = "forward", "prepare"
"""The whole of a model's pass, and what of the attention comes before it: no parts of their own."""
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(slots=True)
class Clocks:
    """Seconds by part, while they are on."""

    is_on: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def around(self, part: str, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """The function, its time added to a part's while the clocks are on."""

        def clocked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if not self.is_on:
                return function(*args, **kwargs)
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self.add(part, time.perf_counter() - started)
            return result

        return clocked

    @contextmanager
    def on(self, model: LoadedModel) -> Iterator[None]:
        """From nothing, with hooks at the model and its linear layers and norms."""
        self.seconds.clear()
        head = model.module.get_output_embeddings()
        removable = self._hook(model.module, _FORWARD)
        for module in model.module.modules():
            part = HEAD if module is head else _part_of(module)
            if part is not None:
                removable += self._hook(module, part)
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False
            for hook in removable:
                hook.remove()

    def _hook(self, module: nn.Module, part: str) -> list[Any]:
        started = 0.0

        def before(*_unused: object) -> None:
            nonlocal started
            started = time.perf_counter()

        def after(*_unused: object) -> None:
            self.add(part, time.perf_counter() - started)

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


class ClockedBackend:
    """A backend whose time goes to the attention's clock.

    Args:
        backend: Does the work.
        clocks: Off until somebody turns them on.
    """

    def __init__(self, backend: AttentionBackend, clocks: Clocks) -> None:
        self._backend = backend
        self.prepare: Callable[[Step, WorkList | None], object] = clocks.around(
            _PREPARE, backend.prepare
        )
        self.attend: Callable[..., Tensor] = clocks.around(ATTENTION, backend.attend)

    @property
    def shape_rows(self) -> tuple[int, ...] | None:
        return self._backend.shape_rows

    @property
    def reads_device_slots(self) -> bool:
        return self._backend.reads_device_slots


def share_out(clocks: Clocks, seconds: float, steps: list[StepNumbers]) -> dict[str, float]:
    """Seconds of each part in the mean of these steps; they add up to all of it.

    Args:
        clocks: That were on.
        seconds: That the steps took in all.
        steps: Their numbers.
    """
    taken = {part: clocks.seconds.get(part, 0.0) for part in (LINEAR, HEAD, NORMS, SAMPLING)}
    attend = clocks.seconds.get(ATTENTION, 0.0)
    prepare = clocks.seconds.get(_PREPARE, 0.0)
    forward = clocks.seconds.get(_FORWARD, 0.0)
    launched = sum(step.model_seconds for step in steps)
    plan = sum(step.plan_seconds for step in steps)
    parts = {
        ATTENTION: attend + prepare,
        LINEAR: taken[LINEAR],
        HEAD: taken[HEAD],
        NORMS: taken[NORMS],
        REST: forward - attend - taken[LINEAR] - taken[HEAD] - taken[NORMS],
        SAMPLING: taken[SAMPLING],
        BATCH: launched - forward - prepare - taken[SAMPLING],
        PLAN: plan,
        SCHEDULER: seconds - launched - plan,
    }
    return {part: own / len(steps) for part, own in parts.items()}


def _part_of(module: nn.Module) -> str | None:
    if isinstance(module, nn.Linear | PackedLinear):
        return LINEAR
    is_norm = "Norm" in type(module).__name__ and not any(module.children())
    return NORMS if is_norm else None
