"""How likely prompt tokens are, over sockets, through both clients."""

import pytest

from treeserve import LLM, InvalidRequest, PromptTree, SamplingParams
from treeserve.types import Delta, PromptLogprobs, Started

TEXT = "a prompt of some length, with words in it"
SCORED = SamplingParams(max_tokens=3, seed=1, ignore_eos=True, prompt_logprobs=2)


@pytest.fixture
def expected(options):
    """What the Python API says, for prompts one after the other."""

    def score(text: str, params: SamplingParams = SCORED):
        llm = LLM(options.model, num_pages=256)
        [result] = llm.generate(text, params)
        return result.prompt_logprobs

    return score


def assert_same(told, expected) -> None:
    assert [(e.token_id, len(e.top)) for e in told] == [(e.token_id, len(e.top)) for e in expected]
    logprobs = [entry.logprob for entry in expected]
    assert [entry.logprob for entry in told] == pytest.approx(logprobs, abs=1e-4)


async def test_a_collected_prompt_is_scored_as_by_the_python_api(both, expected):
    for [completion] in await both.same(lambda client: client.generate(TEXT, SCORED).collect()):
        assert_same(completion.prompt_logprobs, expected(TEXT))
        assert len(completion.prompt_logprobs) == completion.started.num_prompt_tokens - 1
    for [completion] in await both.same(lambda client: client.generate(TEXT).collect()):
        assert completion.prompt_logprobs is None


async def test_every_node_of_a_tree_is_scored_over_its_whole_path(both, expected):
    tree = PromptTree(TEXT, params=SCORED, branches=(PromptTree(" one", n=2), PromptTree(" two")))
    for completions in await both.same(lambda client: client.generate_tree(tree).collect()):
        for completion, end in zip(completions, (" one", " two"), strict=True):
            assert_same(completion.prompt_logprobs, expected(TEXT + end))


async def test_scores_come_after_the_start_and_before_the_samples(client):
    events = [event async for event in client.generate(TEXT, SCORED).events()]
    kinds = [type(event) for event in events]
    assert kinds[0] is Started
    last = max(i for i, kind in enumerate(kinds) if kind is PromptLogprobs)
    assert last < kinds.index(Delta)


async def test_a_fork_is_scored_if_it_asks_and_not_as_its_parent(client):
    [parent] = await client.generate(TEXT, SCORED).collect()
    sample = parent.samples[0]
    [quiet] = await sample.fork(at=2).collect()
    assert quiet.prompt_logprobs is None
    [told] = await sample.fork(at=2, params=SCORED).collect()
    assert_same(told.prompt_logprobs[:-2], parent.prompt_logprobs)
    assert [entry.token_id for entry in told.prompt_logprobs[-2:]] == list(sample.token_ids[:2])


async def test_more_than_twenty_are_refused_by_name(both):
    params = SamplingParams(prompt_logprobs=21)
    for call in (
        lambda client: client.generate(TEXT, params).collect(),
        lambda client: client.generate_tree(PromptTree(TEXT, params=params)).collect(),
    ):
        with pytest.raises(InvalidRequest, match=r"prompt_logprobs: must be between 0 and 20"):
            await both.same(call)
