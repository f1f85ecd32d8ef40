"""Preemption, forks and deadlines with a real model: the same tokens, whatever was in between."""

import time
from dataclasses import replace

import pytest

from treeserve import LLM, FinishReason, InvalidRequest, SamplingParams
from treeserve.engine import EngineFork, EngineRequest, RequestEnded, TokenEvent

TRUNK = "a trunk that all of them share, and then "
SAMPLED = SamplingParams(n=2, seed=5, max_tokens=40, ignore_eos=True, temperature=0.8)


def make(checkpoint_of, **options) -> LLM:
    return LLM(str(checkpoint_of("llama")), page_size=4, dtype="float32", **options)


def run(llm: LLM, events: list) -> dict[tuple[str, int], list[int]]:
    """Steps until nothing is left; the tokens of every sample."""
    while llm.engine.has_work():
        events += llm.engine.step()[0]
        llm.engine.scheduler.check()
    return tokens(events)


def tokens(events: list) -> dict[tuple[str, int], list[int]]:
    drawn: dict[tuple[str, int], list[int]] = {}
    for event in events:
        if isinstance(event, TokenEvent):
            drawn.setdefault((event.request_id, event.sample_index), []).append(event.token_id)
    return drawn


@pytest.mark.parametrize("params", [SAMPLED, replace(SAMPLED, temperature=0.0)])
def test_preempted_samples_draw_the_very_tokens_of_undisturbed_ones(checkpoint_of, params):
    prompts = [TRUNK + ending for ending in ("one", "two", "three")]
    undisturbed = make(checkpoint_of, num_pages=1000, reserve=1.0).generate(prompts, params)
    scarce = make(checkpoint_of, num_pages=32, reserve=0.0)
    disturbed = scarce.generate(prompts, params)
    assert scarce.engine.scheduler.counts().preempted_samples > 2
    for expected, got in zip(undisturbed, disturbed, strict=True):
        assert [s.token_ids for s in got.samples] == [s.token_ids for s in expected.samples]
        usage = got.usage
        assert usage.cached_tokens + usage.shared_tokens + usage.computed_tokens == (
            usage.prompt_tokens
        )


@pytest.mark.parametrize("num_tokens", [0, 3, 8, 10])
def test_branches_go_on_as_if_the_prompt_had_been_sent_whole(checkpoint_of, num_tokens):
    llm = make(checkpoint_of, num_pages=400)
    encoded = llm.prompter.encode(TRUNK, replace(SAMPLED, n=1)).request
    llm.engine.add(encoded)
    events = []
    for _ in range(10):
        events += llm.engine.step()[0]
    params = replace(SAMPLED, seed=9, n=3, max_tokens=12)
    llm.engine.fork(EngineFork("branches", encoded.request_id, 0, num_tokens, params))
    drawn = run(llm, events)
    own = drawn[encoded.request_id, 0]
    assert len(own) == 40
    whole = EngineRequest("whole", (*encoded.prompt_token_ids, *own[:num_tokens]), params)
    fresh = make(checkpoint_of, num_pages=400)
    fresh.engine.add(whole)
    expected = run(fresh, [])
    for index in range(3):
        assert drawn["branches", index] == expected["whole", index]


def test_a_fork_of_nobody_is_one_clear_error_and_loses_nothing(checkpoint_of):
    llm = make(checkpoint_of, num_pages=400)
    with pytest.raises(InvalidRequest, match="neither alive"):
        llm.engine.fork(EngineFork("f", "nobody", 0, 0, SAMPLED))
    assert not llm.engine.has_work()
    assert llm.generate("x", SAMPLED)[0].samples


def test_a_passed_deadline_ends_a_request_and_says_so(checkpoint_of):
    llm = make(checkpoint_of, num_pages=400)
    encoded = llm.prompter.encode(TRUNK, SAMPLED).request
    late = replace(encoded, request_id="late", deadline=time.monotonic() - 1)
    in_time = replace(encoded, request_id="in time", deadline=time.monotonic() + 3600)
    for each in (late, in_time):
        llm.engine.add(each)
    events: list = []
    drawn = run(llm, events)
    assert set(drawn) == {("in time", 0), ("in time", 1)}
    ended = {e.request_id: e for e in events if isinstance(e, RequestEnded)}
    assert ended["late"].reason is FinishReason.DEADLINE
    assert ended["late"].error is None
    assert llm.engine.scheduler.counts().tally.num_expired == 1
