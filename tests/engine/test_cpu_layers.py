"""Layers by the compiled kernels compute what transformers computes, whatever rows are beside."""

from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, make_model
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from treeserve import LLM, SamplingParams
from treeserve.building import build_engine
from treeserve.config import EngineOptions, ModelConfig
from treeserve.cpu_layers.fused import FusedAttention, FusedGatedLayer, OnePassNorm
from treeserve.cpu_layers.library import load_library
from treeserve.cpu_layers.linear import PackedEmbedding, PanelLinear, join_layers
from treeserve.cpu_layers.mapped import MappedFiles
from treeserve.cpu_layers.panels import pack_weight, pack_weight_in_place, quantize_weight
from treeserve.model import LoadedModel, adopt_model, load_model
from treeserve.packed_linear import PackedLinear
from treeserve.prefixes.fingerprint import make_fingerprint

BFLOAT16 = torch.bfloat16
SHAPES = [(96, 130), (300, 64), (514, 200), (2310, 70)]
"""(in, out): parts of panels, of segments of 256, and more inputs than are read at a time."""


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(BFLOAT16)


def make_layer(in_features: int, out_features: int, pack, has_bias: bool = True) -> PanelLinear:
    bias = nn.Parameter(random(out_features, seed=2), requires_grad=False) if has_bias else None
    weight = random(out_features, in_features, seed=3)
    return PanelLinear(pack(weight), bias, load_library())


def exact(layer: PanelLinear, states: torch.Tensor) -> torch.Tensor:
    packed = layer.packed
    weight = layer.weight.double()
    if packed.scales is not None:
        whole = packed.panels.transpose(1, 2).reshape(-1, packed.in_features)
        weight = whole[: packed.out_features].double() * packed.scales[:, None].double()
    bias = None if layer.bias is None else layer.bias.double()
    return nn.functional.linear(states.double(), weight, bias)


@pytest.mark.parametrize("pack", [pack_weight, quantize_weight])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
@torch.inference_mode()
def test_a_product_is_exact_but_for_one_rounding(cpu_kernel, pack, shape, has_bias):
    layer = make_layer(*shape, pack, has_bias)
    for rows in [(1, 0), (1,), (7,), (2, 33)]:
        states = random(*rows, shape[0])
        product = layer(states)
        assert product.shape == (*rows, shape[1])
        # int16 takes a segment's numbers to 1 in 65,534 of its largest.
        torch.testing.assert_close(product.double(), exact(layer, states), rtol=2**-8, atol=2e-2)


@pytest.mark.parametrize("pack", [pack_weight, quantize_weight])
@pytest.mark.parametrize("in_features", [514, 2310])
@torch.inference_mode()
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(
    cpu_kernel, pack, in_features
):
    layer = make_layer(in_features, 200, pack)
    states = random(131, in_features)
    together = layer(states)
    for first, end in [(0, 1), (5, 11), (128, 131)]:
        assert torch.equal(layer(states[first:end]), together[first:end])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(layer(states), together)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_a_weight_that_is_not_quantized_comes_back_as_it_was(cpu_kernel):
    weight = random(130, 96)
    # At an odd place in memory, as a part of a larger tensor may be.
    shifted = torch.cat([random(1, 1)[0], weight.flatten()])[1:].view(130, 96)
    packed = pack_weight(shifted)
    assert torch.equal(packed.plain(), weight)
    ids = torch.tensor([[0, 129, 64], [63, 1, 1]])
    assert torch.equal(packed.rows(ids), weight[ids])


@torch.inference_mode()
def test_a_large_weight_is_packed_where_it_lies_and_never_there_twice():
    weight = random(192, 96)
    expected = pack_weight(weight)
    packed = pack_weight_in_place(weight)
    assert packed.panels.data_ptr() == weight.data_ptr()
    assert torch.equal(packed.panels, expected.panels)
    uneven = random(130, 96)
    assert pack_weight_in_place(uneven).panels.data_ptr() != uneven.data_ptr()
    assert torch.equal(uneven, random(130, 96))


@torch.inference_mode()
def test_a_weight_that_two_layers_share_is_packed_for_each(cpu_kernel):
    module = make_model("llama").to(BFLOAT16)
    first, second = module.model.layers
    second.mlp.down_proj.weight = first.mlp.down_proj.weight
    weight = first.mlp.down_proj.weight.clone()
    model = adopt_model("shared", module)
    for layer in model.module.model.layers:
        assert torch.equal(layer.mlp.down_proj.weight, weight)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of what is mapped")
@torch.inference_mode()
def test_pages_of_a_file_are_let_go_and_read_again_if_need_be(tmp_path):
    weight = random(640, 96)
    weight.view(torch.uint8).numpy().tofile(tmp_path / "weight")
    mapped = torch.from_file(
        str(tmp_path / "weight"), shared=False, size=weight.numel(), dtype=BFLOAT16
    ).view(640, 96)
    files = MappedFiles()
    assert files.hold(mapped)
    assert not files.hold(weight)
    released: list[int] = []

    def release(piece: torch.Tensor) -> None:
        files.release(piece)
        released.append(len(piece))

    assert torch.equal(pack_weight(mapped, release).plain(), weight)
    assert sum(released) == 640
    assert torch.equal(mapped, weight)


def test_a_checkpoint_in_a_file_is_served_as_its_weights_are(checkpoint_of, cpu_kernel):
    """Whatever of the file's memory was given back on the way."""
    folder = checkpoint_of("qwen2")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=BFLOAT16)
    model = loaded(folder)
    assert torch.equal(model.module.lm_head.weight, plain.lm_head.weight)
    for mine, other in zip(model.module.model.layers, plain.model.layers, strict=True):
        parts = (other.mlp.gate_proj.weight, other.mlp.up_proj.weight)
        assert torch.equal(mine.mlp.gate_up_proj.weight, torch.cat(parts))
        parts = (other.self_attn.q_proj, other.self_attn.k_proj, other.self_attn.v_proj)
        assert torch.equal(mine.self_attn.qkv_proj.weight, torch.cat([p.weight for p in parts]))
        assert torch.equal(mine.self_attn.qkv_proj.bias, torch.cat([p.bias for p in parts]))


@torch.inference_mode()
def test_a_quantized_weight_is_off_by_half_a_step_at_most(cpu_kernel):
    weight = random(130, 96)
    weight[7] = 0
    packed = quantize_weight(weight)
    steps = weight.float().abs().amax(dim=1, keepdim=True) / 127
    error = (packed.plain().float() - weight.float()).abs()
    assert (error <= 0.5 * steps + 2**-8 * weight.float().abs()).all()
    assert not packed.plain()[7].any()
    ids = torch.tensor([[5, 129], [7, 64]])
    assert torch.equal(packed.rows(ids), packed.plain()[ids])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@torch.inference_mode()
def test_a_weight_that_is_not_a_number_is_not_hidden_by_quantizing_it(cpu_kernel, bad):
    weight = random(70, 96)
    weight[5, 3] = bad
    product = PanelLinear(quantize_weight(weight), None, load_library())(random(2, 96))
    assert not product[:, 5].isfinite().any()
    assert product[:, :5].isfinite().all()


@pytest.mark.parametrize("pack", [pack_weight, quantize_weight])
@torch.inference_mode()
def test_layers_side_by_side_give_what_each_gives(cpu_kernel, pack):
    library = load_library()
    layers = [make_layer(96, size, pack, size != 64) for size in (130, 64, 20)]
    joined = join_layers(layers, library)
    states = random(9, 96)
    assert torch.equal(joined(states), torch.cat([layer(states) for layer in layers], dim=-1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@torch.inference_mode()
def test_what_is_not_a_number_spoils_its_own_row_only(cpu_kernel, bad):
    layer = make_layer(514, 64, quantize_weight)
    states = random(3, 514)
    expected = layer(states)
    states[1, 300] = bad
    product = layer(states)
    assert product[1].isnan().all()
    assert torch.equal(product[[0, 2]], expected[[0, 2]])


@torch.inference_mode()
def test_rows_of_nothing_and_of_tiny_numbers_are_products_too(cpu_kernel):
    layer = make_layer(514, 64, quantize_weight, has_bias=False)
    states = random(3, 514)
    states[0] = 0
    states[1] *= 1e-36
    states[2] *= 1e-20
    product = layer(states)
    assert not product[0].any()
    assert product[1].abs().max() < 1e-30
    torch.testing.assert_close(product[2].double(), exact(layer, states)[2], rtol=2**-7, atol=1e-21)


@torch.inference_mode()
def test_tensors_of_another_kind_are_refused_not_converted(cpu_kernel):
    library = load_library()
    packed = pack_weight(random(64, 96))
    with pytest.raises(TypeError, match="states: bfloat16 is read, not"):
        library.linear(torch.zeros(2, 96), packed.panels, None, None, 64)
    with pytest.raises(ValueError, match="states: 96 numbers a row, not 64"):
        library.linear(random(2, 64), packed.panels, None, None, 64)
    with pytest.raises(ValueError, match="panels: 2 hold the outputs, not 1"):
        library.linear(random(2, 96), packed.panels, None, None, 70)
    with pytest.raises(ValueError, match="panels: 2 hold the outputs, not 1"):
        library.gated_linear(random(2, 96), packed.panels, None, None, 64)
    with pytest.raises(TypeError, match="states: is to be contiguous"):
        library.normalise(random(8, 4).T, random(8), 1e-6)
    with pytest.raises(ValueError, match="states: 8 numbers a row, not 4"):
        library.normalise(random(8, 4), random(8), 1e-6)
    with pytest.raises(ValueError, match=r"cos, sin: \[2, 16\], not \[2, 8\]"):
        library.rotate_in_place(random(2, 3, 16), 2, random(2, 8), random(2, 8))


@pytest.mark.parametrize("size", [64, 72, 896])
@torch.inference_mode()
def test_one_pass_over_a_row_rounds_where_transformers_does(cpu_kernel, size):
    library = load_library()
    norm = LlamaRMSNorm(size, eps=1e-6).to(BFLOAT16)
    norm.weight.copy_(random(size, seed=4))
    states = random(40, size) * random(40, 1, seed=5)
    same = library.normalise(states, norm.weight, 1e-6) == norm(states)
    assert same.float().mean() > 0.99


@pytest.mark.parametrize("head_dim", [16, 64, 80])
@torch.inference_mode()
def test_heads_turn_as_transformers_turns_them(cpu_kernel, head_dim):
    heads = random(9, 5, head_dim)
    angles = torch.linspace(0, 50, 9 * head_dim // 2).view(9, -1).repeat(1, 2)
    cos, sin = angles.cos().to(BFLOAT16), angles.sin().to(BFLOAT16)
    turned, _ = apply_rotary_pos_emb(heads, heads, cos, sin)
    expected = torch.cat([turned[:, :3], heads[:, 3:]], dim=1)
    load_library().rotate_in_place(heads, 3, cos, sin)
    assert torch.equal(heads, expected)


def loaded(family_or_folder, **options) -> LoadedModel:
    return load_model(ModelConfig(model=str(family_or_folder), dtype="bfloat16", **options))


def count(model: LoadedModel, kind: type) -> int:
    return sum(isinstance(part, kind) for part in model.module.modules())


@pytest.mark.parametrize(
    ("family", "norms", "gated", "attention"),
    [("llama", 5, 2, 2), ("qwen2", 5, 2, 2), ("qwen3", 9, 2, 2), ("smollm3", 5, 2, 2),
     ("mixtral", 5, 0, 2), ("gemma2", 0, 0, 0), ("olmo", 0, 0, 0), ("stablelm", 0, 0, 0)],
)  # fmt: skip
def test_parts_of_plain_families_are_fused_and_no_others(
    checkpoint_of, cpu_kernel, family, norms, gated, attention
):
    model = loaded(checkpoint_of(family))
    found = [count(model, kind) for kind in (OnePassNorm, FusedGatedLayer, FusedAttention)]
    assert found == [norms, gated, attention]


def test_a_part_that_computes_something_else_is_left_alone(checkpoint_of, cpu_kernel, monkeypatch):
    """As a later version of transformers may, under the same name."""
    before = LlamaRMSNorm.forward
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: 1.5 * before(self, x))
    model = loaded(checkpoint_of("llama"))
    assert count(model, OnePassNorm) == 0
    assert count(model, FusedAttention) == 2


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_as_near_to_float32_as_with_transformers(checkpoint_of, cpu_kernel, family):
    folder = checkpoint_of(family)
    prompts = [[*range(3, 60), end] for end in (1, 2, 3)]
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=20)
    results = LLM(str(folder), dtype="bfloat16", num_pages=64).generate(prompts, params)

    def logprobs(dtype: torch.dtype) -> torch.Tensor:
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        with torch.inference_mode():
            return module(torch.tensor(prompts)).logits[:, -1].float().log_softmax(-1)

    truth, theirs = logprobs(torch.float32), logprobs(BFLOAT16)
    errors, their_errors = [], []
    for row, result in enumerate(results):
        for token_id, logprob in result.samples[0].logprobs[0].top:
            errors.append(abs(logprob - truth[row, token_id].item()))
            their_errors.append((theirs[row, token_id] - truth[row, token_id]).abs().item())
    assert sum(errors) < 1.5 * sum(their_errors) + 0.01 * len(errors)


def tied_model(quantization="none") -> LoadedModel:
    module = make_model("qwen2").to(BFLOAT16)
    module.config.tie_word_embeddings = True
    module.lm_head.weight = module.model.embed_tokens.weight
    return adopt_model("tied", module, quantization=quantization)


@pytest.mark.parametrize("quantization", ["none", "int8"])
@torch.inference_mode()
def test_a_head_that_is_tied_to_the_embeddings_is_there_once(cpu_kernel, quantization):
    plain = make_model("qwen2").to(BFLOAT16).model.embed_tokens
    model = tied_model(quantization)
    assert count(model, nn.Embedding) == 0
    embeddings, head = model.module.get_input_embeddings(), model.module.lm_head
    assert isinstance(embeddings, PackedEmbedding)
    ids = torch.tensor([[0, 319, 5, 64]])
    assert torch.equal(embeddings(ids), head.weight[ids])
    if quantization == "none":
        assert torch.equal(embeddings(ids), plain(ids))


def test_embeddings_of_their_own_stay_as_they_are(checkpoint_of, cpu_kernel):
    assert count(loaded(checkpoint_of("llama")), nn.Embedding) == 1


def test_int8_draws_what_transformers_finds_likely(checkpoint_of, cpu_kernel):
    folder = str(checkpoint_of("qwen2"))
    llm = LLM(folder, dtype="bfloat16", quantization="int8", num_pages=64)
    prompt = tuple(range(3, 40))
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    [result] = llm.generate([prompt], params)
    # Beside others it draws the very same.
    beside = llm.generate([prompt, prompt[:20], prompt[3:]], params)[0]
    assert beside.samples[0].token_ids == result.samples[0].token_ids
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    known = torch.tensor([list(prompt)])
    for token_id in result.samples[0].token_ids:
        with torch.inference_mode():
            logits = reference(known).logits[0, -1]
        assert logits[token_id] >= logits.max() - 0.1 * (logits.max() - logits.min())
        known = torch.cat([known, torch.tensor([[token_id]])], dim=1)


def test_int8_takes_half_the_memory(checkpoint_of, cpu_kernel):
    folder = checkpoint_of("llama")

    def weight_bytes(model: LoadedModel) -> int:
        return sum(p.weight_bytes for p in model.module.modules() if isinstance(p, PackedLinear))

    plain, quantized = loaded(folder), loaded(folder, quantization="int8")
    assert weight_bytes(quantized) < 0.55 * weight_bytes(plain)


def fingerprint(folder, **options) -> str:
    options = {"dtype": "bfloat16", "num_pages": 4, **options}
    built = build_engine(EngineOptions(model=str(folder), **options))
    return make_fingerprint(built.model, built.prompter.tokenizer, built.kv_cache).model


def test_packed_weights_are_told_from_others_and_by_any_machine(
    checkpoint_of, cpu_kernel_folder, monkeypatch, tmp_path
):
    """Saved KV of another model must not be read, and that of the same one elsewhere may be."""
    folder = checkpoint_of("llama")
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    without_kernels = fingerprint(folder)
    monkeypatch.setenv("TREESERVE_CACHE", str(cpu_kernel_folder))
    assert fingerprint(folder) == without_kernels
    assert fingerprint(folder, quantization="int8") != without_kernels
    module = AutoModelForCausalLM.from_pretrained(folder)
    module.model.layers[1].mlp.up_proj.weight.data += 1
    module.save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "other" / name).write_text((folder / name).read_text())
    assert fingerprint(tmp_path / "other") != without_kernels
