"""How likely each prompt token is, by transformers' own logits, however the prompt is computed."""

from pathlib import Path

import pytest
import torch
from engine.overlap_calls import assert_at_rest
from tiny_models import FAMILIES
from transformers import AutoModelForCausalLM, PreTrainedModel

from treeserve import LLM, InvalidRequest, PromptTree, SamplingParams, token_scores
from treeserve.types import PromptLogprobs

TOLERANCE = 1e-4
SCORED = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True, prompt_logprobs=3)
PLAIN = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def make(folder: Path, **options) -> LLM:
    given = {"num_pages": 128, "page_size": 4, "token_budget": 32, **options}
    return LLM(str(folder), dtype="float32", **given)


def ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 257, (length,), generator=generator).tolist()


@torch.inference_mode()
def assert_scored(model: PreTrainedModel, prompt: list[int], told, num_top: int = 3) -> None:
    table = model(torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
    assert [entry.token_id for entry in told] == prompt[1:]
    own = table[torch.arange(len(prompt) - 1), prompt[1:]]
    assert [entry.logprob for entry in told] == pytest.approx(own.tolist(), abs=TOLERANCE)
    top = table.topk(num_top).values.tolist()
    assert [[value for _, value in entry.top] for entry in told] == [
        pytest.approx(values, abs=TOLERANCE) for values in top
    ]
    for row, entry in zip(table, told, strict=True):
        assert all(row[token] == pytest.approx(v, abs=TOLERANCE) for token, v in entry.top)
        likelier = (row > entry.logprob + TOLERANCE).sum(), (row > entry.logprob - TOLERANCE).sum()
        assert likelier[0] + 1 <= entry.rank <= likelier[1]


@pytest.fixture
def llama(checkpoint_of) -> Path:
    return checkpoint_of("llama")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_scores_prompts_as_transformers_does(family, checkpoint_of):
    folder = checkpoint_of(family)
    llm, model, prompt = make(folder), load(folder), ids(45, seed=1)
    for _ in range(2):
        [result] = llm.generate([prompt], SCORED)
        assert_scored(model, prompt, result.prompt_logprobs)
    [plain] = llm.generate([prompt], PLAIN)
    assert [s.token_ids for s in result.samples] == [s.token_ids for s in plain.samples]


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_prompts_that_share_text_are_each_scored_whole(llama, overlap):
    llm, model = make(llama, overlap=overlap), load(llama)
    trunk = ids(40, seed=2)
    prompts = [trunk + ids(n, seed=n) for n in (3, 20, 50)] + [trunk, trunk[:21], ids(1, seed=9)]
    params = SamplingParams(n=3, seed=1, max_tokens=3, ignore_eos=True, prompt_logprobs=3)
    for _ in range(2):
        for prompt, result in zip(prompts, llm.generate(prompts, params), strict=True):
            assert_scored(model, prompt, result.prompt_logprobs)
            assert len(result.samples) == 3
    assert_at_rest(llm.engine)


def test_every_branch_of_a_tree_is_scored_over_its_whole_path(llama):
    llm, model = make(llama, token_budget=256), load(llama)
    tree = PromptTree(
        token_ids=tuple(ids(30, seed=3)),
        params=SCORED,
        branches=(
            PromptTree(token_ids=tuple(ids(9, seed=4))),
            PromptTree(token_ids=tuple(ids(14, seed=5)), params=PLAIN),
            PromptTree(token_ids=tuple(ids(7, seed=6)), n=2),
        ),
    )
    results = {result.path: result for result in llm.generate_tree(tree)}
    assert results[1,].prompt_logprobs is None
    for path, seed, length in (((0,), 4, 9), ((2,), 6, 7)):
        prompt = ids(30, seed=3) + ids(length, seed=seed)
        assert_scored(model, prompt, results[path].prompt_logprobs)
    # All of a fresh tree is computed once: branches are scored by the trunk's own rows.
    assert sum(each.usage.computed_tokens for each in results.values()) == 30 + 9 + 14 + 7


def test_cached_tokens_that_are_scored_count_as_computed(llama):
    llm, prompt = make(llama), ids(45, seed=7)
    llm.generate([prompt], PLAIN)
    [again] = llm.generate([prompt], PLAIN)
    assert (again.usage.cached_tokens, again.usage.computed_tokens) == (45, 0)
    [scored] = llm.generate([prompt], SCORED)
    # The logits after the last token are kept, and tell of no prompt token.
    assert (scored.usage.cached_tokens, scored.usage.computed_tokens) == (1, 44)
    [longer] = llm.generate([prompt + ids(10, seed=8)], SCORED)
    assert (longer.usage.cached_tokens, longer.usage.computed_tokens) == (0, 55)
    assert longer.usage.recomputed_tokens == 0


def test_scores_come_before_the_first_drawn_token(llama):
    items = list(make(llama).stream(ids(100, seed=9), SCORED))
    kinds = [isinstance(item, PromptLogprobs) for item in items]
    assert kinds == sorted(kinds, reverse=True)
    assert sum(len(i.logprobs) for i in items if isinstance(i, PromptLogprobs)) == 99
    assert sum(kinds) > 1, "a long prompt is told of as it is computed"


def test_a_large_vocabulary_is_worked_out_in_pieces(llama, monkeypatch):
    monkeypatch.setattr(token_scores, "MAX_LOGITS", 1000)
    llm, prompt = make(llama), ids(45, seed=10)
    head, sizes = llm.engine._runner._model.head, []
    logits_of = head.logits

    def watched(states):
        sizes.append(len(states))
        return logits_of(states)

    monkeypatch.setattr(head, "logits", watched)
    [result] = llm.generate([prompt], SCORED)
    assert_scored(load(llama), prompt, result.prompt_logprobs)
    assert max(sizes) == 1000 // 320


def test_a_request_that_ends_early_leaves_nothing_behind(llama):
    llm = make(llama, overlap="on")
    for _ in range(3):
        stream = llm.stream(ids(90, seed=11), SCORED)
        next(stream)
        stream.close()
    assert_at_rest(llm.engine)


def test_prompts_are_scored_though_samples_have_to_give_way(llama):
    llm, model = make(llama, num_pages=30, reserve=0.0), load(llama)
    prompts = [ids(30, seed=n) for n in range(20, 26)]
    params = SamplingParams(n=2, seed=1, max_tokens=30, ignore_eos=True, prompt_logprobs=3)
    for prompt, result in zip(prompts, llm.generate(prompts, params), strict=True):
        assert_scored(model, prompt, result.prompt_logprobs)
        assert [len(sample.token_ids) for sample in result.samples] == [30, 30]
    assert llm.engine.scheduler.counts().preempted_samples > 0
    assert_at_rest(llm.engine)


def test_no_likelier_tokens_need_be_told_and_each_prompt_gets_its_own_number(llama):
    llm, model, prompts = make(llama), load(llama), [ids(20, seed=30), ids(25, seed=31)]
    params = [SamplingParams(max_tokens=1, prompt_logprobs=num_top) for num_top in (0, 20)]
    for prompt, own, result in zip(prompts, params, llm.generate(prompts, params), strict=True):
        assert_scored(model, prompt, result.prompt_logprobs, own.prompt_logprobs)


def test_a_prompt_of_one_token_has_no_scores_and_one_that_did_not_ask_has_none(llama):
    llm = make(llama)
    [alone, quiet] = llm.generate([[5], [5, 6]], [SCORED, PLAIN])
    assert (alone.prompt_logprobs, quiet.prompt_logprobs) == ((), None)


@pytest.mark.parametrize("count", [-1, 21, True, 1.5])
def test_a_count_out_of_range_is_refused_by_name(llama, count):
    with pytest.raises(InvalidRequest, match="prompt_logprobs"):
        make(llama).generate("text", SamplingParams(prompt_logprobs=count))
