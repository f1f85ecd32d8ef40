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

ATTENTION, LINEAR, HEAD, SAMPLING = "attention", "linear_layers", "output_head", "sampling"
PLAN, SCHEDULER, REST = "plan", "scheduler", "rest_of_model"
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
        """From nothing, with hooks at every linear layer of the model."""
        self.seconds.clear()
        head = model.module.get_output_embeddings()
        removable = []
        for module in model.module.modules():
            if module is head or isinstance(module, nn.Linear | PackedLinear):
                removable += self._hook(module, HEAD if module is head else LINEAR)
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
            ATTENTION, backend.prepare
        )
        self.attend: Callable[..., Tensor] = clocks.around(ATTENTION, backend.attend)

    @property
    def shape_rows(self) -> tuple[int, ...] | None:
        return self._backend.shape_rows

    @property
    def reads_device_slots(self) -> bool:
        return self._backend.reads_device_slots


def share_out(clocks: Clocks, seconds: float, steps: list[StepNumbers]) -> dict[str, float]:
    """The share of each part in these steps; they add up to 1.

    Args:
        clocks: That were on.
        seconds: That the steps took in all.
        steps: Their numbers.
    """
    parts = {part: clocks.seconds.get(part, 0.0) for part in (ATTENTION, LINEAR, HEAD, SAMPLING)}
    model = sum(step.model_seconds for step in steps)
    plan = sum(step.plan_seconds for step in steps)
    parts[REST] = model - sum(parts.values())
    parts[PLAN] = plan
    parts[SCHEDULER] = seconds - model - plan
    return {part: own / seconds for part, own in parts.items()}
