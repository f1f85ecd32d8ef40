"""Linear layers whose weights lie as a CPU's matrix products want them, packed once at load."""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer that keeps its weight in oneDNN's blocked form, in place of the plain one.

    PyTorch's own packs it again in every call, which at one row takes longer than the product.

    Args:
        linear: On the CPU, in bfloat16.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """[out_features, in_features] a plain copy, made anew each time."""
        return self._packed.to_dense()

    def forward(self, states: Tensor) -> Tensor:
        """[..., out_features] of states [..., in_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._packed, self.bias, "none", [], ""
        )
        return product


def pack_linear_layers(module: nn.Module) -> int:
    """Replace linear layers by packed ones, where that is faster: bfloat16, on a CPU with oneDNN.

    One after the other, so that no more than one weight is there twice. An output head that is tied
    to the embeddings leaves these as they are, so its weight is then there in both forms.

    Args:
        module: Changed in place.

    Returns:
        How many layers were replaced.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 0
    # Names, not layers: a list of these would keep every plain weight until the end.
    names = [name for name, child in module.named_modules() if _can_pack(child)]
    for name in names:
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        module.set_submodule(name, PackedLinear(linear))
    return len(names)


def _can_pack(module: nn.Module) -> bool:
    """Subclasses do more than multiply, and hooks may look at the weight."""
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return False
    weight = module.weight
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16
