"""Weights in int8 are refused where they cannot be, before any weight is read or made."""

import shutil

import pytest
import torch

from treeserve.building import build_engine
from treeserve.config import EngineOptions, ModelConfig
from treeserve.cpu_layers.pack import check_quantization
from treeserve.errors import ConfigError, ModelError
from treeserve.model import load_model

OFF_CPU = "quantization: int8 is for device cpu, not cuda; try device=cpu, or quantization=none"
NO_CUDA = "device: 'cuda' asked for, but PyTorch finds no CUDA device"


@pytest.fixture
def without_weights(checkpoint_of, tmp_path) -> str:
    """A checkpoint that cannot be loaded: its files but the weights."""
    folder = tmp_path / "without-weights"
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(checkpoint_of("llama"), folder, ignore=weights)
    return str(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float32"}, "quantization: int8 is for dtype bfloat16, not float32; try dtype="),
        ({"dtype": "auto"}, "quantization: int8 is for dtype bfloat16, not float32; try dtype="),
        ({"tensor_parallel": 2}, "quantization: int8 is not possible with tensor_parallel 2"),
        ({"quantization": "int4"}, "quantization: 'int4' is not one of none, int8"),
        # Without one, "try device=cpu" would only lead to the next error.
        ({"device": "cuda"}, OFF_CPU if torch.cuda.is_available() else NO_CUDA),
    ],
)
def test_int8_is_refused_where_it_cannot_be_before_weights_are_read(
    without_weights, cpu_kernel, options, words
):
    """Reading them may take minutes."""
    given = {"dtype": "bfloat16", "device": "cpu", "quantization": "int8", **options}
    with pytest.raises(ConfigError, match=words):
        build_engine(EngineOptions(model=without_weights, num_pages=4, **given))


def test_int8_off_a_cpu_names_the_device_that_it_is_for():
    with pytest.raises(ConfigError, match=OFF_CPU):
        check_quantization("int8", torch.device("cuda"), torch.bfloat16)


def test_int8_without_the_kernels_says_why_not(without_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    options = {"model": without_weights, "dtype": "bfloat16", "device": "cpu"}
    with pytest.raises(ConfigError, match=r"quantization: int8 cannot run here: .*; try none"):
        load_model(ModelConfig(quantization="int8", **options))
    with pytest.raises(ModelError, match="cannot load"):
        load_model(ModelConfig(**options))
