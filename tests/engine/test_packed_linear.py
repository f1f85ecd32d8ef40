"""Linear layers that are packed at load give what plain ones give, and take no more memory."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from treeserve import LLM, SamplingParams
from treeserve.config import ModelConfig
from treeserve.model import load_model
from treeserve.packed_linear import OneDnnLinear, PackedLinear, pack_with_onednn

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 here"
)


@needs_bfloat16
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 0, 96), (1, 1, 96), (1, 7, 96), (2, 33, 96)])
@torch.inference_mode()
def test_a_packed_layer_gives_what_the_plain_one_gives(has_bias, shape):
    torch.manual_seed(1)
    linear = nn.Linear(96, 130, bias=has_bias, dtype=torch.bfloat16)
    packed = OneDnnLinear(linear)
    states = torch.randn(shape, dtype=torch.bfloat16)
    exact = nn.functional.linear(
        states.double(), linear.weight.double(), linear.bias.double() if has_bias else None
    )
    assert packed(states).dtype == torch.bfloat16
    torch.testing.assert_close(packed(states).double(), exact, rtol=2**-8, atol=2**-9)
    assert torch.equal(packed.weight, linear.weight)
    assert packed.weight_bytes >= linear.weight.nbytes


@needs_bfloat16
def test_only_plain_bfloat16_layers_are_packed():
    class Doubled(nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    hooked = nn.Linear(8, 8, dtype=torch.bfloat16)
    hooked.register_forward_hook(lambda *_: None)
    module = nn.Sequential(
        nn.Linear(8, 8, dtype=torch.bfloat16),
        nn.Linear(8, 8),
        Doubled(8, 8, dtype=torch.bfloat16),
        hooked,
        nn.Sequential(nn.Linear(8, 8, dtype=torch.bfloat16)),
    )
    assert pack_with_onednn(module) == 2
    packed = [name for name, part in module.named_modules() if isinstance(part, PackedLinear)]
    assert packed == ["0", "4.0"]
    # What was packed is not there in the plain form as well.
    assert [name for name, _ in module.named_parameters() if name.endswith("weight")] == [
        "1.weight", "2.weight", "3.weight",
    ]  # fmt: skip


@needs_bfloat16
def test_a_bfloat16_checkpoint_draws_what_transformers_finds_likeliest(checkpoint_of):
    """Each token is the likeliest in float32, or so near to it that rounding decides."""
    folder = str(checkpoint_of("qwen2"))
    llm = LLM(folder, dtype="bfloat16")
    prompt = tuple(range(3, 40))
    [result] = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    module = load_model(ModelConfig(model=folder, dtype="bfloat16")).module
    packed = [part for part in module.modules() if isinstance(part, PackedLinear)]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert len(packed) > reference.config.num_hidden_layers
    known = torch.tensor([list(prompt)])
    for token_id in result.samples[0].token_ids:
        with torch.inference_mode():
            logits = reference(known).logits[0, -1]
        assert logits[token_id] >= logits.max() - 0.05 * (logits.max() - logits.min())
        known = torch.cat([known, torch.tensor([[token_id]])], dim=1)
