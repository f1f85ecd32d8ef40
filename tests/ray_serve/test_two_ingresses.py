"""Two ingresses before two replicas, none of which knows what the other sent; and full ones."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from ray_serve.conftest import OPTIONS, add_keys, ensure
from ray_serve.test_cluster import TRUNK, computed, params
from ray_serve.test_services import PROMPT, SCHEMA

from treeserve.client import AdminClient, Client, RemoteError, Retries
from treeserve.module_prompt import ImportingPrompt
from treeserve.types import RequestOptions

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def key(ray_cluster, tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "keys.jsonl"
    secret = add_keys(path)["all"]
    ensure(
        ray_cluster,
        {
            "num_replicas": 2,
            "num_ingresses": 2,
            "engine": OPTIONS,
            "ingress": {"api_keys": str(path), "admin": True},
            "replica": {"max_waiting_requests": 2},
            "stats_seconds": 0.5,
        },
    )
    return secret


@pytest.fixture
def client(ray_cluster, key):
    with Client(ray_cluster.address, api_key=key) as made:
        yield made


def test_both_find_what_either_started(client):
    """Calls are spread over the ingresses, so of twenty some come to the other one."""
    for index in range(20):
        options = RequestOptions(request_id=f"two-{index}")
        stream = client.generate(f"{index} {TRUNK}", params(), options=options)
        [parent] = stream.collect()
        [fork] = stream.sample(0).fork(at=4, params=params()).collect()
        assert fork.usage.prompt_tokens == parent.usage.prompt_tokens + 4
        assert fork.usage.computed_tokens <= 1
        assert client.abort(f"two-{index}") == 0


def test_each_sends_a_trunk_to_one_replica_so_that_at_most_two_compute_it(client, ray_cluster):
    trunk = "By both.\n" + TRUNK
    length = client.count_tokens(trunk).num_tokens
    before = computed(ray_cluster)
    for index in range(16):
        assert client.generate(f"{trunk}{index}", params()).collect()
    assert computed(ray_cluster) - before < 2 * length + 16 * 8


def test_a_schema_that_is_put_is_there_for_every_prompt(client):
    client.modules.put(SCHEMA)
    for _ in range(12):
        [got] = client.generate(ImportingPrompt(PROMPT), params()).collect()
        assert got.usage.module_tokens > 0
    client.modules.delete("trip")
    for _ in range(12):
        assert client.modules.list() == ()


def test_what_no_engine_has_room_for_is_refused_with_the_time_to_wait(ray_cluster, key):
    """Of so many at once two wait at each engine, and the others have nowhere to go."""
    with (
        Client(ray_cluster.address, api_key=key, retries=None) as once,
        ThreadPoolExecutor(32) as pool,
    ):
        calls = [
            pool.submit(lambda i=i: once.generate(f"{i} at once. {TRUNK}", params()).collect())
            for i in range(32)
        ]
        errors = [error for call in calls if (error := call.exception()) is not None]
    assert 0 < len(errors) < 32
    for error in errors:
        assert isinstance(error, RemoteError)
        assert error.code == "RESOURCE_EXHAUSTED"
        assert error.retry_seconds >= 1.0
        assert "the engines are full: 2 prompts wait" in error.details


def test_what_no_engine_has_room_for_now_is_tried_again_until_one_has(client, ray_cluster, key):
    prompts = [f"{index} of a crowd. {TRUNK}" for index in range(16)]
    retries = Retries(max_attempts=40)
    with (
        Client(ray_cluster.address, api_key=key, retries=retries) as patient,
        ThreadPoolExecutor(16) as pool,
    ):
        calls = [pool.submit(lambda p=p: patient.generate(p, params()).collect()) for p in prompts]
        assert all(len(call.result()[0].samples) == 1 for call in calls)


def test_once_it_drains_no_ingress_takes_a_call(client, ray_cluster, key):
    with AdminClient(ray_cluster.address, api_key=key) as admin:
        drained = admin.drain()
    assert drained.all_ended
    with Client(ray_cluster.address, api_key=key, retries=None) as once:
        for _ in range(8):
            with pytest.raises(RemoteError, match="the server is draining") as refused:
                once.generate("a", params()).collect()
            assert refused.value.code == "UNAVAILABLE"
