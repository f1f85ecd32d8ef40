"""Rules change logits as a hand computation does, and only those of their own sample."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from treeserve import LLM, SamplingParams
from treeserve.engine_messages import TokenEvent
from treeserve.logit_rules import RuleSet, SampleRules, apply_rules
from treeserve.sampler import DrawParams, draw_tokens
from treeserve.types import FinishReason, Guidance

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 3.0, 0.0]])


def after(rules: RuleSet, *drawn: int) -> SampleRules:
    sample = rules.start()
    for token_id in drawn:
        sample.observe(token_id)
    return sample


def changed(rules: RuleSet, *drawn: int) -> list[float]:
    return apply_rules(LOGITS, [after(rules, *drawn)])[0].tolist()


def test_a_repetition_penalty_divides_above_zero_and_multiplies_below():
    rules = RuleSet(prompt_token_ids=(1, 1, 4), repetition_penalty=2.0)
    assert changed(rules) == [2.0, -2.0, 0.5, 3.0, 0.0]
    assert changed(rules, 0, 3, 0) == [1.0, -2.0, 0.5, 1.5, 0.0]


def test_presence_counts_once_and_frequency_every_time_and_neither_the_prompt():
    rules = RuleSet(prompt_token_ids=(1, 2), presence_penalty=0.5, frequency_penalty=0.25)
    assert changed(rules) == LOGITS[0].tolist()
    assert changed(rules, 3, 3, 0) == [2.0 - 0.75, -1.0, 0.5, 3.0 - 1.0, 0.0]


def test_biases_are_added_after_penalties():
    rules = RuleSet(
        prompt_token_ids=(3,),
        repetition_penalty=2.0,
        presence_penalty=1.0,
        logit_bias={3: -10.0, 4: 1.5},
    )
    assert changed(rules, 3) == [2.0, -1.0, 0.5, 3.0 / 2 - 1 - 10, 1.5]


def test_ends_are_banned_until_there_are_tokens_enough():
    rules = RuleSet(min_tokens=2, end_token_ids=frozenset({0, 3}))
    banned = [-math.inf, -1.0, 0.5, -math.inf, 0.0]
    assert changed(rules) == changed(rules, 1) == banned
    assert changed(rules, 1, 1) == LOGITS[0].tolist()


class OnlyTokens:
    """A grammar in which any of some tokens may always come."""

    def __init__(self, *token_ids: int) -> None:
        self.token_ids = token_ids
        self.observed: list[int] = []
        self.error = ""

    def start(self) -> "OnlyTokens":
        return OnlyTokens(*self.token_ids)

    def fill_mask(self, mask: np.ndarray) -> None:
        for token_id in self.token_ids:
            mask[token_id // 32] |= np.int32(np.uint32(1 << token_id % 32).astype(np.int32))

    def observe(self, token_id: int) -> None:
        self.observed.append(token_id)


def test_a_grammar_leaves_its_tokens_alone():
    assert changed(RuleSet(grammar=OnlyTokens(2, 4))) == [-math.inf] * 2 + [0.5, -math.inf, 0.0]


@pytest.mark.parametrize("vocabulary_size", [31, 32, 33, 100])
def test_masks_fit_any_vocabulary(vocabulary_size):
    allowed = [token for token in (0, 30, 31, 32, 63, 64, 99) if token < vocabulary_size]
    logits = torch.zeros(2, vocabulary_size)
    ruled = apply_rules(logits, [None, RuleSet(grammar=OnlyTokens(*allowed)).start()])
    assert ruled[1].isfinite().nonzero().flatten().tolist() == allowed
    assert ruled[0].equal(logits[0])


def test_a_grammar_that_leaves_only_an_end_beats_a_ban():
    rules = {"min_tokens": 2, "end_token_ids": frozenset({0})}
    assert changed(RuleSet(grammar=OnlyTokens(0, 3), **rules))[0] == -math.inf
    only_end = changed(RuleSet(grammar=OnlyTokens(0), **rules))
    assert only_end == [2.0] + [-math.inf] * 4


def test_rows_do_not_touch_each_other_or_the_models_logits():
    logits = LOGITS.repeat(3, 1)
    rules = [
        after(RuleSet(repetition_penalty=2.0), 3),
        None,
        after(RuleSet(logit_bias={0: 1.0}), 3),
    ]
    ruled = apply_rules(logits, rules)
    assert ruled.tolist() == [
        [2.0, -1.0, 0.5, 1.5, 0.0],
        LOGITS[0].tolist(),
        [3.0, -1.0, 0.5, 3.0, 0.0],
    ]
    assert logits.equal(LOGITS.repeat(3, 1))
    assert apply_rules(logits, [None] * 3) is logits


def test_only_what_depends_on_tokens_makes_a_draw_wait_for_the_last_one():
    assert not RuleSet(logit_bias={1: 1.0}).start().needs_history
    assert RuleSet(presence_penalty=0.1).start().needs_history
    assert RuleSet(grammar=OnlyTokens(1)).start().needs_history
    early = RuleSet(min_tokens=1)
    assert early.start().needs_history
    assert not after(early, 4).needs_history


def test_log_probabilities_and_ranks_are_the_models_own():
    params = SamplingParams(temperature=0, logprobs=2)
    rules = RuleSet(logit_bias={3: -100.0, 0: -100.0}).start()
    [token] = draw_tokens(LOGITS, [DrawParams(params, 0, rules)], [0]).read_sync()
    expected = torch.log_softmax(LOGITS[0], dim=-1)
    assert token.token_id == 2
    assert token.logprob.logprob == pytest.approx(expected[2].item())
    assert token.logprob.rank == 3
    assert [entry[0] for entry in token.logprob.top] == [3, 0]


@pytest.fixture(scope="module")
def llm(checkpoint_of) -> LLM:
    return LLM(str(checkpoint_of("llama")), num_pages=64, page_size=16)


def first(llm: LLM, params: SamplingParams):
    return llm.generate("a few words", params)[0].samples[0]


def test_a_strong_repetition_penalty_draws_no_token_twice(llm):
    plain = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    assert len(set(first(llm, plain).token_ids)) < 40
    drawn = first(llm, replace(plain, repetition_penalty=100.0)).token_ids
    assert len(set(drawn)) == 40
    assert not set(llm.prompter.tokenizer.encode("a few words")) & set(drawn)


def test_a_bias_decides(llm):
    params = SamplingParams(temperature=1, seed=3, max_tokens=5, logit_bias={9: 100.0})
    assert first(llm, params).token_ids == (9,) * 5


def test_min_tokens_keep_a_sample_from_ending(llm):
    wants_to_end = SamplingParams(temperature=0, max_tokens=20, logit_bias={0: 100.0})
    assert first(llm, wants_to_end).token_ids == (0,)
    late = SamplingParams(temperature=0, max_tokens=20, min_tokens=7, logit_bias={0: 100.0})
    sample = first(llm, late)
    assert (len(sample.token_ids), sample.token_ids[-1]) == (8, 0)


def test_samples_keep_their_own_history(llm):
    """Drawn together or alone, with or without neighbours, each sample is the same."""
    params = SamplingParams(n=4, seed=5, max_tokens=30, frequency_penalty=2.0, ignore_eos=True)
    [together] = llm.generate(["a few words"], params)
    [again, _] = llm.generate(["a few words", "a few others"], params)
    assert [s.token_ids for s in together.samples] == [s.token_ids for s in again.samples]
    assert len({s.token_ids for s in together.samples}) == 4


def test_overlapped_steps_know_what_was_drawn_before(checkpoint_of, llm):
    """With a penalty or a grammar the next step is launched when the last token has been read."""
    ahead = LLM(str(checkpoint_of("llama")), num_pages=64, page_size=16, overlap="on")
    plain = SamplingParams(n=3, seed=5, max_tokens=30, ignore_eos=True)
    every = [
        plain,
        replace(plain, frequency_penalty=2.0),
        replace(plain, min_tokens=9, ignore_eos=False, logit_bias={0: 100.0}),
        replace(plain, ignore_eos=False, guidance=Guidance("regex", "[a-d]{5,9}")),
    ]
    for params in (every, every[:1], every[1:]):
        prompts = ["abc"] * len(params)
        expected = [[s.token_ids for s in r.samples] for r in llm.generate(prompts, params)]
        actual = [[s.token_ids for s in r.samples] for r in ahead.generate(prompts, params)]
        assert actual == expected


class BreaksAfterTwo(OnlyTokens):
    """A grammar that turns out to be too complex."""

    def start(self) -> "BreaksAfterTwo":
        return BreaksAfterTwo(*self.token_ids)

    def observe(self, token_id: int) -> None:
        super().observe(token_id)
        self.error = "too complex" if len(self.observed) == 2 else ""


def test_a_grammar_that_breaks_ends_its_own_samples_alone(llm, caplog):
    params = SamplingParams(n=2, max_tokens=6, ignore_eos=True, seed=1)
    broken, plain = llm.prompter.encode("abc", params), llm.prompter.encode("abc", params)
    llm.engine.add(replace(broken.request, rules=RuleSet(grammar=BreaksAfterTwo(5, 6))))
    llm.engine.add(plain.request)
    events = []
    while llm.engine.has_work():
        events += llm.engine.step()[0]
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    ends = [e for e in tokens if e.finish_reason is FinishReason.ERROR]
    assert [(e.request_id, e.sample_index) for e in ends] == [
        (broken.request.request_id, index) for index in range(2)
    ]
    assert sum(e.request_id == broken.request.request_id for e in tokens) == 4
    assert sum(e.request_id == plain.request.request_id for e in tokens) == 12
    assert "too complex" in caplog.text
    llm.engine.scheduler.check()
    assert llm.engine.scheduler.counts().running_samples == 0


def test_a_preempted_sample_remembers_what_it_drew(checkpoint_of):
    """In a pool that is too small samples start again; their penalties must not."""
    params = SamplingParams(n=6, seed=5, max_tokens=60, presence_penalty=2.0, ignore_eos=True)
    roomy = LLM(str(checkpoint_of("llama")), num_pages=64, page_size=16)
    tight = LLM(str(checkpoint_of("llama")), num_pages=14, page_size=16, reserve=0.0)
    [expected], [actual] = roomy.generate(["abc"], params), tight.generate(["abc"], params)
    assert tight.engine.scheduler.counts().preempted_samples > 0
    assert [s.token_ids for s in actual.samples] == [s.token_ids for s in expected.samples]
