"""Two replicas behind Ray's proxy: what a caller sees is one server, and trunks stay together."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from ray_serve.conftest import OPTIONS

from treeserve.client import Client, RejectedRequest, RemoteError
from treeserve.llm import LLM
from treeserve.types import PromptTree, RequestOptions, SamplingParams

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TRUNK = "Read n numbers and print the sum of those that are even.\n" * 20


@pytest.fixture
def client(ray_cluster, tenants):
    with Client(ray_cluster.address, api_key=tenants["red"]) as made:
        yield made


def params(**fields) -> SamplingParams:
    return SamplingParams(**{"seed": 5, "max_tokens": 12, "ignore_eos": True, **fields})


def test_samples_are_those_of_one_process(client):
    prompts = [f"{TRUNK}Chat {index}.\n" for index in range(4)]
    [*expected] = LLM(**OPTIONS).generate(prompts, params(n=2))
    for prompt, generation in zip(prompts, expected, strict=True):
        [got] = client.generate(prompt, params(n=2)).collect()
        assert [s.token_ids for s in got.samples] == [s.token_ids for s in generation.samples]


def test_what_comes_at_once_with_one_trunk_computes_it_once(client, ray_cluster):
    trunk = "Once more.\n" + TRUNK
    before = computed(ray_cluster)
    length = client.count_tokens(trunk).num_tokens
    with ThreadPoolExecutor(12) as pool:
        calls = [
            pool.submit(lambda i=i: client.generate(f"{trunk}{i}", params()).collect())
            for i in range(12)
        ]
        assert all(len(call.result()[0].samples) == 1 for call in calls)
    assert computed(ray_cluster) - before < 2 * length


def computed(cluster) -> int:
    return sum(total["computed_tokens"] for total in cluster.totals().values())


def test_trees_run_whole_and_forks_go_to_their_parents(client):
    branches = tuple(PromptTree(f"Branch {index}.\n", n=2) for index in range(3))
    tree = PromptTree(TRUNK, branches, params=params())
    completions = client.generate_tree(tree).collect()
    assert [(c.path, len(c.samples)) for c in completions] == [((0,), 2), ((1,), 2), ((2,), 2)]
    for index in range(6):
        options = RequestOptions(request_id=f"parent-{index}")
        stream = client.generate(f"{index} {TRUNK}", params(), options=options)
        [parent] = stream.collect()
        [fork] = stream.sample(0).fork(at=4, params=params()).collect()
        # Nothing of the parent is computed again but, at most, the row that the fork draws from.
        assert fork.usage.prompt_tokens == parent.usage.prompt_tokens + 4
        assert fork.usage.computed_tokens <= 1


def test_bad_requests_name_their_field_and_strangers_get_in_nowhere(client, ray_cluster, tenants):
    with pytest.raises(RejectedRequest) as refused:
        client.generate([1, 2, 10**6], params()).collect()
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", "prompt[2]")
    with pytest.raises(RejectedRequest, match="must not be empty"):
        client.tokenize("")
    with Client(ray_cluster.address, api_key="nobody's") as stranger:
        with pytest.raises(RemoteError) as unknown:
            stranger.generate("a", params()).collect()
        assert unknown.value.code == "UNAUTHENTICATED"


def test_a_call_whose_deadline_passes_ends_with_that_status(client):
    with pytest.raises(RemoteError) as late:
        client.generate(TRUNK, params(max_tokens=1400), timeout_seconds=0.05).collect()
    assert late.value.code == "DEADLINE_EXCEEDED"


def test_prompt_tokens_are_scored_as_in_one_process(client):
    [scored] = client.generate("Read n numbers", params(prompt_logprobs=0)).collect()
    [expected] = LLM(**OPTIONS).generate(["Read n numbers"], params(prompt_logprobs=0))
    got = [entry.token_id for entry in scored.prompt_logprobs]
    assert got == [entry.token_id for entry in expected.prompt_logprobs]


def test_a_tenant_finds_neither_another_ones_prefixes_nor_its_requests(
    client, ray_cluster, tenants
):
    prompt = "Private.\n" + TRUNK
    options = RequestOptions(request_id="mine")
    client.generate(prompt, params(), options=options).collect()
    [again] = client.generate(prompt, params()).collect()
    assert again.usage.cached_tokens > 0
    with Client(ray_cluster.address, api_key=tenants["blue"]) as other:
        [others] = other.generate(prompt, params()).collect()
        assert others.usage.cached_tokens == 0
        with pytest.raises(RemoteError) as unknown:
            other.abort("mine")
        assert unknown.value.code == "NOT_FOUND"
    assert client.abort("mine") == 0


def test_a_replica_that_dies_loses_its_streams_and_no_request_for_good(
    client, ray_cluster, tenants
):
    """They end as UNAVAILABLE, and the clients' safe retry starts them again elsewhere."""
    options = RequestOptions(request_id="lost")
    with (
        Client(ray_cluster.address, api_key=tenants["red"], retries=None) as once,
        ThreadPoolExecutor(8) as pool,
    ):
        stream = once.generate(TRUNK, params(max_tokens=1000), options=options)
        next(stream)
        prompts = [f"{index % 4} {TRUNK}{index}" for index in range(24)]
        calls = [
            pool.submit(lambda p=prompt: client.generate(p, params(max_tokens=48)).collect())
            for prompt in prompts
        ]
        ray_cluster.kill(ray_cluster.home_of("red", "lost"))
        with pytest.raises(RemoteError, match="the replica that ran the call died") as lost:
            list(stream)
        assert lost.value.code == "UNAVAILABLE"
        samples = [call.result()[0].samples[0] for call in calls]
    assert [len(sample.token_ids) for sample in samples] == [48] * 24
