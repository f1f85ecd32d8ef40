"""Packs a model's linear layers at load, by the compiled kernels where they run, else by oneDNN."""

import logging
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treeserve.config import QuantizationName
from treeserve.cpu_layers.fuse import fuse_layers
from treeserve.cpu_layers.library import LayerLibrary, load_library, why_no_library
from treeserve.cpu_layers.linear import GatedPanels, PackedEmbedding, PanelLinear
from treeserve.cpu_layers.mapped import MappedFiles, trim_heap
from treeserve.cpu_layers.panels import (
    PanelWeight,
    pack_weight,
    pack_weight_in_place,
    quantize_weight,
)
from treeserve.errors import ConfigError
from treeserve.large_pages import move_to_large_pages
from treeserve.packed_linear import pack_linear_layers, pack_with_onednn

logger = logging.getLogger(__name__)

_ROUTERS = ("gate", "router")
"""Last parts of the names of layers that choose experts: rounding must not choose others."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayers:
    """What a model's layers were packed with."""

    library: LayerLibrary | None
    """None: the kernels do not run here, or the model is not for them."""

    def fuse(self, module: nn.Module) -> int:
        """Replace parts of plain families by fused ones; how many.

        Args:
            module: Whose attention is treeserve's already.
        """
        if self.library is None:
            return 0
        num_fused = fuse_layers(module, self.library)
        trim_heap()
        parts = module.modules()
        move_to_large_pages(p.panels for p in parts if isinstance(p, PanelLinear | GatedPanels))
        return num_fused


def is_packable(module: PreTrainedModel) -> bool:
    """Whether `pack_model` changes it: on a CPU, in bfloat16."""
    return bool(module.device.type == "cpu" and module.dtype == torch.bfloat16)


def check_quantization(
    quantization: QuantizationName, device: torch.device, dtype: torch.dtype | None
) -> None:
    """Refuse what cannot be, before a model is loaded for it.

    The kernels are compiled first where they are not there yet and may be.

    Args:
        quantization: Of the linear layers' weights.
        device: On which the model is to run.
        dtype: Of the model; None: only its weights will tell.

    Raises:
        ConfigError: Weights cannot be quantized there; says why, and what can be done.
    """
    if quantization == "none":
        return
    if device.type != "cpu":
        raise ConfigError(
            f"quantization: {quantization} is for device cpu, not {device.type}; "
            "try device=cpu, or quantization=none"
        )
    if dtype not in (None, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"quantization: {quantization} is for dtype bfloat16, not {name}; try dtype=bfloat16"
        )
    reason = why_no_library()
    if reason is not None:
        raise ConfigError(f"quantization: {quantization} cannot run here: {reason}; try none")


def pack_model(module: PreTrainedModel, quantization: QuantizationName = "none") -> PackedLayers:
    """Replace what can be faster on a CPU in bfloat16; another model is left as it is.

    Args:
        module: On its device; changed in place.
        quantization: Of the linear layers' weights.

    Raises:
        ConfigError: It cannot be quantized here; says why.
    """
    check_quantization(quantization, module.device, module.dtype)
    if not is_packable(module):
        return PackedLayers(None)
    reason = why_no_library()
    if reason is not None:
        logger.info("linear layers by oneDNN: %s", reason)
        pack_with_onednn(module)
        return PackedLayers(None)
    library = load_library()
    tied = _tied_embedding(module)
    packer = _Packer(library, quantization, _own_weights(module, tied is not None), MappedFiles())
    pack_linear_layers(module, packer.pack)
    head = module.get_output_embeddings()
    if tied is not None and isinstance(head, PanelLinear):
        module.set_submodule(tied, PackedEmbedding(head.packed))
    trim_heap()
    return PackedLayers(library)


@dataclass(frozen=True, slots=True, eq=False)
class _Packer:
    library: LayerLibrary
    quantization: QuantizationName
    own: frozenset[int]
    """Addresses of weights that nobody else reads, so that they may change where they lie."""
    files: MappedFiles

    def pack(self, linear: nn.Linear, name: str) -> PanelLinear | None:
        if linear.in_features % 2:
            return None
        return PanelLinear(self._packed(linear.weight, name), linear.bias, self.library)

    def _packed(self, weight: Tensor, name: str) -> PanelWeight:
        in_file = self.files.hold(weight)
        done = self.files.release if in_file else None
        if self.quantization == "int8" and name.rpartition(".")[2] not in _ROUTERS:
            return quantize_weight(weight, done)
        if weight.data_ptr() in self.own and not in_file:
            return pack_weight_in_place(weight)
        return pack_weight(weight, done)


def _own_weights(module: PreTrainedModel, is_tied: bool) -> frozenset[int]:
    """Addresses of parameters that one part alone has; of a tied head, for its embeddings go."""
    found = Counter(
        weight.data_ptr()
        for part in module.modules()
        for weight in part._parameters.values()
        if weight is not None and weight.untyped_storage().nbytes() == weight.nbytes
    )
    if is_tied:
        found[module.get_output_embeddings().weight.data_ptr()] -= 1
    return frozenset(address for address, count in found.items() if count == 1)


def _tied_embedding(module: PreTrainedModel) -> str | None:
    """The name of plain embeddings whose weight is the output head's; None: there are none."""
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    if head is None or type(embeddings) is not nn.Embedding or embeddings.max_norm is not None:
        return None
    if head.weight is not embeddings.weight or embeddings._forward_hooks:
        return None
    names: list[str] = [name for name, part in module.named_modules() if part is embeddings]
    return names[0]
