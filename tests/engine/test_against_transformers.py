"""Greedy tokens and log-probabilities are those of transformers' own generate, for every family.

Prompts share a prefix longer than the families' sliding windows, and steps are small, so that
prompts are computed in several chunks beside samples that decode.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY_SIZE
from transformers import AutoModelForCausalLM, PreTrainedModel

from treeserve import LLM, PromptTree, SamplingParams
from treeserve.engine import RequestEnded, TokenEvent

MAX_TOKENS = 12
LOGPROB_TOLERANCE = 1e-4
GREEDY = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, logprobs=0, ignore_eos=True)


@dataclass(frozen=True)
class Completion:
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 257, (length,), generator=generator).tolist()


def expected(model: PreTrainedModel, prompt: list[int]) -> Completion:
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        min_new_tokens=MAX_TOKENS,
        max_new_tokens=MAX_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    token_ids = output.sequences[0, len(prompt) :].tolist()
    table = torch.stack(output.logits)[:, 0].float().log_softmax(-1)
    return Completion(tuple(token_ids), tuple(table[i, t].item() for i, t in enumerate(token_ids)))


def assert_equal(actual: Completion, reference: Completion) -> None:
    assert actual.token_ids == reference.token_ids
    assert actual.logprobs == pytest.approx(reference.logprobs, abs=LOGPROB_TOLERANCE)


def completion(sample) -> Completion:
    return Completion(sample.token_ids, tuple(entry.logprob for entry in sample.logprobs))


@pytest.fixture(scope="module")
def reference_of(checkpoint_of) -> Callable[[str], Callable[[tuple[int, ...]], Completion]]:
    """From a family to what its model completes a prompt with; each prompt is completed once."""

    @cache
    def reference(family: str) -> Callable[[tuple[int, ...]], Completion]:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint_of(family), dtype=torch.float32, attn_implementation="eager"
        ).eval()
        return cache(lambda prompt: expected(model, list(prompt)))

    return reference


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> str:
    return request.param


@pytest.fixture(params=["always", "on", "off"])
def llm(request, family, checkpoint_of) -> LLM:
    return LLM(
        str(checkpoint_of(family)), dtype="float32", sharing=request.param, num_pages=256,
        page_size=4, token_budget=32,
    )  # fmt: skip


def test_equal_to_transformers(llm, family, reference_of):
    reference = reference_of(family)
    trunk = ids(40, seed=1)
    prompts = [trunk + ids(length, seed=length) for length in (1, 7, 19)]
    prompts += [ids(3, seed=9), trunk, ids(1, seed=10)]

    for result, prompt in zip(llm.generate(prompts, GREEDY), prompts, strict=True):
        assert_equal(completion(result.samples[0]), reference(tuple(prompt)))

    late = trunk[:33] + ids(5, seed=11)
    arrivals = {0: prompts[0], 3: prompts[1], 4: late, 6: prompts[2], 7: prompts[0]}
    for prompt, actual in run_with_arrivals(llm, arrivals):
        assert_equal(actual, reference(tuple(prompt)))

    for text, actual in run_three_levels(llm):
        assert_equal(actual, reference(tuple(1 + byte for byte in text.encode())))
    llm.engine.scheduler.check()


def run_with_arrivals(
    llm: LLM, arrivals: dict[int, list[int]]
) -> list[tuple[list[int], Completion]]:
    """Add each prompt before the step of its number."""
    engine, prompter = llm.engine, llm.prompter
    drawn: dict[str, list[TokenEvent]] = {}
    prompt_of: dict[str, list[int]] = {}
    step = 0
    while engine.has_work() or step <= max(arrivals):
        if step in arrivals:
            request = prompter.encode(arrivals[step], GREEDY).request
            prompt_of[request.request_id] = arrivals[step]
            engine.add(request)
        events, _ = engine.step()
        for event in events:
            if not isinstance(event, RequestEnded):
                drawn.setdefault(event.request_id, []).append(event)
        step += 1
    return [
        (
            prompt_of[key],
            Completion(tuple(e.token_id for e in events), tuple(e.logprob.logprob for e in events)),
        )
        for key, events in drawn.items()
    ]


def run_three_levels(llm: LLM) -> list[tuple[str, Completion]]:
    trunk = "A trunk of some length that all of them share. "
    middles = ["First branch, ", "Second branch, not as long as the trunk, "]
    leaves = ["leaf.", "another leaf.", "x"]
    tree = PromptTree(
        trunk,
        params=GREEDY,
        n=1,
        branches=tuple(
            PromptTree(middle, branches=tuple(PromptTree(leaf) for leaf in leaves))
            for middle in middles
        ),
    )
    texts = {(): trunk}
    texts |= {
        (i, j): trunk + middle + leaf
        for i, middle in enumerate(middles)
        for j, leaf in enumerate(leaves)
    }
    results = llm.generate_tree(tree)
    assert {result.path for result in results} == set(texts)
    return [(texts[result.path], completion(result.samples[0])) for result in results]


def test_all_sixteen_families_are_tried():
    assert len(FAMILIES) == 16
    assert VOCABULARY_SIZE > 256
