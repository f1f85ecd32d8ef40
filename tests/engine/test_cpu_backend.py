"""The engine on the compiled CPU kernel: when "auto" takes it, and what is drawn with it."""

import logging

import pytest
import torch

from treeserve import LLM, SamplingParams
from treeserve.building import build_engine
from treeserve.config import EngineOptions
from treeserve.errors import ConfigError

GREEDY = SamplingParams(temperature=0, max_tokens=10, logprobs=0, ignore_eos=True)
TOLERANCE = 0.1
"""Of log-probabilities, between two ways to round in bfloat16."""


def prompts() -> list[list[int]]:
    """A prefix of more tokens than a window or a chunk, and several ends to it."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 257, (90,), generator=generator).tolist()
    return [[*ids[:70], *ids[70 : 70 + 3 * end], 1 + end] for end in range(5)]


def mean_error(drawn, truth) -> float:
    """Of log-probabilities, up to where the tokens differ: equally good ones may change places."""
    errors = []
    for ours, theirs in zip(drawn, truth, strict=True):
        [mine], [other] = ours.samples, theirs.samples
        for a, b in zip(mine.logprobs, other.logprobs, strict=True):
            errors.append(abs(a.logprob - b.logprob))
            if a.token_id != b.token_id:
                break
    return sum(errors) / len(errors)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("sharing", ["always", "off"])
def test_what_is_drawn_is_as_near_to_float32_as_with_the_torch_backend(
    checkpoint_of, cpu_kernel, family, sharing
):
    """Windows, soft caps and sinks among them."""

    def draw(backend: str, dtype: str):
        return LLM(
            str(checkpoint_of(family)), dtype=dtype, backend=backend, sharing=sharing,
            num_pages=64, token_budget=32,
        ).generate(prompts(), GREEDY)  # fmt: skip

    truth = draw("torch", "float32")
    bound = 1.5 * mean_error(draw("torch", "bfloat16"), truth) + 0.005
    assert mean_error(draw("cpu", "bfloat16"), truth) < bound < 0.1


def options(folder, **changes) -> EngineOptions:
    return EngineOptions(model=str(folder), num_pages=16, **changes)


def test_auto_takes_the_kernel_for_bfloat16_and_packs_its_cache(
    checkpoint_of, cpu_kernel, monkeypatch
):
    """On a processor without AMX; with it PyTorch's operator is the faster one."""
    monkeypatch.setattr("treeserve.attention.cpu_packed.has_matrix_tiles", lambda: False)
    built = build_engine(options(checkpoint_of("llama"), dtype="bfloat16"))
    assert built.backend == "cpu"
    assert built.kv_cache.layout == "packed"


def test_auto_says_why_it_does_not(checkpoint_of, cpu_kernel, caplog):
    with caplog.at_level(logging.INFO, "treeserve"):
        built = build_engine(options(checkpoint_of("llama"), dtype="float32"))
    assert (built.backend, built.kv_cache.layout) == ("torch", "plain")
    assert "PyTorch's operator: the kernel is for bfloat16, not for float32" in caplog.text


def test_what_was_asked_for_by_name_is_never_replaced(checkpoint_of, cpu_kernel):
    with pytest.raises(ConfigError, match='"cpu" is for bfloat16, not for float32; try torch'):
        build_engine(options(checkpoint_of("llama"), dtype="float32", backend="cpu"))


def test_pages_smaller_than_a_block_are_served_by_name(checkpoint_of, cpu_kernel):
    llm = LLM(
        str(checkpoint_of("llama")), dtype="bfloat16", backend="cpu", num_pages=256, page_size=4
    )
    whole = LLM(str(checkpoint_of("llama")), dtype="bfloat16", backend="cpu", num_pages=64)
    pairs = zip(llm.generate(prompts(), GREEDY), whole.generate(prompts(), GREEDY), strict=True)
    for small, large in pairs:
        [first, *_], [other, *_] = small.samples[0].logprobs, large.samples[0].logprobs
        assert first.logprob == pytest.approx(other.logprob, abs=TOLERANCE)
