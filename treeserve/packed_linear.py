"""Linear layers whose weights lie as a CPU's matrix products want them, packed once at load."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module, ABC):
    """A linear layer that keeps its weight packed, in place of the plain one.

    Args:
        in_features: Of a row of states.
        out_features: Of a row of results.
        bias: [out_features], or None.
    """

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = bias

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """[out_features, in_features] a plain copy, made anew each time."""

    @property
    @abstractmethod
    def weight_bytes(self) -> int:
        """That the packed weight takes, without the bias."""

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """[..., out_features] of states [..., in_features]."""


class OneDnnLinear(PackedLinear):
    """The weight in oneDNN's blocked form.

    PyTorch's own layer packs it in every call, which at one row takes longer than the product.

    Args:
        linear: On the CPU, in bfloat16.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias)
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    @property
    def weight(self) -> Tensor:
        return self._packed.to_dense()

    @property
    def weight_bytes(self) -> int:
        return int(torch.ops.mkldnn._nbytes(self._packed))

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._packed, self.bias, "none", [], ""
        )
        return product


def pack_linear_layers(
    module: nn.Module, pack: Callable[[nn.Linear, str], PackedLinear | None]
) -> int:
    """Replace linear layers in bfloat16 on a CPU by packed ones.

    One after the other, so that no more than one weight is there twice. An output head that is tied
    to the embeddings leaves these as they are, so its weight is then there in both forms.

    Args:
        module: Changed in place.
        pack: From a layer and its name to what takes its place; None: it stays.

    Returns:
        How many layers were replaced.
    """
    # Names, not layers: a list of these would keep every plain weight until the end.
    names = [name for name, child in module.named_modules() if _can_pack(child)]
    num_packed = 0
    for name in names:
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        packed = pack(linear, name)
        if packed is not None:
            module.set_submodule(name, packed)
            num_packed += 1
    return num_packed


def pack_with_onednn(module: nn.Module) -> int:
    """Pack linear layers as oneDNN wants them, where it has products of bfloat16.

    Args:
        module: Changed in place.

    Returns:
        How many layers were replaced.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 0
    return pack_linear_layers(module, lambda linear, _name: OneDnnLinear(linear))


def _can_pack(module: nn.Module) -> bool:
    """Subclasses do more than multiply, and hooks may look at the weight."""
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return False
    weight = module.weight
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16
