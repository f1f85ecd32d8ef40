"""Carries the step past decoder layers that do not hand extra arguments to their attention."""

from typing import Any

from torch import nn


class StepNotPassed(TypeError):
    """The model's attention was called without the step that the model was called with."""


class _Cell:
    """What one layer was last called with, for its own attention to read within that call."""

    def __init__(self) -> None:
        self.step: Any = None

    def remember(self, _layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.step = kwargs.get("step")

    def hand_on(
        self, _attention: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        return args, kwargs if self.step is None else {**kwargs, "step": self.step}


def relay_step(model: nn.Module) -> None:
    """Let every decoder layer hand the step on to its attention, in place.

    For models such as StableLM, whose layers accept extra keyword arguments and drop them.
    """
    for layer in model.modules():
        attention = getattr(layer, "self_attn", None)
        if isinstance(attention, nn.Module):
            cell = _Cell()
            layer.register_forward_pre_hook(cell.remember, with_kwargs=True)
            attention.register_forward_pre_hook(cell.hand_on, with_kwargs=True)
