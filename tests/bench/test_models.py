"""Models with random weights: their size, and that they are the same every time."""

import torch
from transformers import AutoModelForCausalLM

from treeserve.bench.decode.models import make_random_model, make_random_module, model_config

CPU = torch.device("cpu")


def test_the_shape_of_an_8b_llama_has_its_number_of_parameters():
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(model_config("llama-8b"), dtype=torch.bfloat16)
    # As meta-llama/Meta-Llama-3-8B has.
    assert sum(parameter.numel() for parameter in module.parameters()) == 8_030_261_248


def test_weights_are_the_same_every_time_and_nobody_elses_numbers_change():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = (make_random_model("tiny", torch.float32, CPU) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    for left, right in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(left, right)
    assert [layer.num_kv_heads for layer in first.layers] == [2, 2]


def test_every_matrix_is_drawn_and_a_tied_head_is_made_once(tmp_path):
    config = model_config("tiny")
    config.tie_word_embeddings = True
    config.save_pretrained(tmp_path)
    module = make_random_module(str(tmp_path), torch.bfloat16, CPU, "eager")
    assert module.lm_head.weight is module.model.embed_tokens.weight
    for name, weight in module.named_parameters():
        if weight.dim() == 1:
            assert (weight == 1).all(), name
        else:
            assert 0.9 < weight.float().std() / config.initializer_range < 1.1, name
    assert module.model.rotary_emb.inv_freq[0] == 1
