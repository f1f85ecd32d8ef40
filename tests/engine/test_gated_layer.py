"""A gated layer whose gates and ups are one product computes what transformers computes."""

import pytest
import torch
from torch import nn

from treeserve.config import ModelConfig
from treeserve.cpu_layers.library import load_library
from treeserve.cpu_layers.linear import GatedPanels, PanelLinear
from treeserve.cpu_layers.panels import pack_weight, quantize_weight
from treeserve.model import load_model


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def make_layer(in_features: int, out_features: int, pack, seed: int, has_bias: bool) -> PanelLinear:
    bias = nn.Parameter(random(out_features), requires_grad=False) if has_bias else None
    weight = random(out_features, in_features, seed=seed) / in_features**0.5
    return PanelLinear(pack(weight), bias, load_library())


@pytest.mark.parametrize("pack", [pack_weight, quantize_weight])
@pytest.mark.parametrize("shape", [(96, 130), (300, 64), (2310, 70)])
@pytest.mark.parametrize("has_bias", [True, False])
@torch.inference_mode()
def test_gates_and_ups_as_one_product_round_where_transformers_does(
    cpu_kernel, pack, shape, has_bias
):
    library = load_library()
    gate, up = make_layer(*shape, pack, 3, has_bias), make_layer(*shape, pack, 4, False)
    pair = GatedPanels(gate, up, library)
    assert torch.equal(pair.weight, torch.cat([gate.weight, up.weight]))
    states = random(40, shape[0])
    result = pair(states)
    gates, ups = gate(states), up(states)
    assert (result == nn.functional.silu(gates) * ups).float().mean() > 0.99
    for first, end in [(0, 1), (7, 20)]:
        assert torch.equal(pair(states[first:end]), result[first:end])


@torch.inference_mode()
def test_a_long_prompt_goes_through_a_gated_layer_in_pieces(checkpoint_of, cpu_kernel):
    """So that what is between its products takes little memory; rows come out as they would."""
    config = ModelConfig(model=str(checkpoint_of("llama")), dtype="bfloat16")
    layer = load_model(config).module.model.layers[0].mlp
    states = random(1, 1100, layer.gate_up_proj.in_features)
    together = layer(states)
    assert together.shape == states.shape
    for first, end in [(0, 3), (500, 530), (1099, 1100)]:
        assert torch.equal(layer(states[:, first:end]), together[:, first:end])
