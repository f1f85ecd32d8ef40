"""Where a benchmark's model comes from, as plain data: another process can load it once more."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from treeserve.bench.decode import models
from treeserve.config import DtypeName, ModelConfig, QuantizationName
from treeserve.cpu_layers.pack import check_quantization
from treeserve.model import LoadedModel, adopt_model, load_model, load_module


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Random weights in a shape, or a checkpoint."""

    name: str
    """Of a shape, or a folder or file with a configuration; or of a checkpoint."""
    is_checkpoint: bool
    dtype: DtypeName
    """auto: as the checkpoint has it."""
    device: str
    quantization: QuantizationName = "none"
    """Of linear layers' weights."""
    packs_linear: bool = True
    """As engines have linear layers on a CPU; else as PyTorch has them."""

    def load(self) -> LoadedModel:
        """The model as an engine runs it.

        Raises:
            ConfigError: It cannot be quantized there.
            ModelError: It cannot be read or served.
        """
        if self.is_checkpoint and self.packs_linear:
            return load_model(self._config())
        if not self.is_checkpoint:
            dtype: torch.dtype = getattr(torch, self.dtype)
            check_quantization(self.quantization, torch.device(self.device), dtype)
        module = self._load_module("eager")
        name = self.name if self.is_checkpoint else f"random {self.name}"
        # As with several ranks, whose linear layers are left as they are.
        return adopt_model(name, module, is_whole=self.packs_linear, quantization=self.quantization)

    def load_versus(self) -> PreTrainedModel:
        """The same weights once more, with the attention that transformers takes by itself."""
        return self._load_module("sdpa")

    def _load_module(self, attention: str) -> PreTrainedModel:
        if self.is_checkpoint:
            return load_module(self._config(), attention)
        dtype: torch.dtype = getattr(torch, self.dtype)
        return models.make_random_module(self.name, dtype, torch.device(self.device), attention)

    def _config(self) -> ModelConfig:
        return ModelConfig(
            model=self.name,
            dtype=self.dtype,
            device=self.device,
            quantization=self.quantization,
        )
