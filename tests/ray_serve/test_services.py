"""The services beside generation, over two replicas: callers see one server."""

import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray_serve.test_cluster import TRUNK, computed, params

from treeserve.client import AdminClient, Client, RemoteError
from treeserve.module_prompt import ImportingPrompt
from treeserve.types import PromptTree

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SCHEMA = """<schema name="trip">You plan trips for people who like numbers.
<module name="oslo">It goes to Oslo, where it rains on most days of the year.</module>
<module name="rome">It goes to Rome, where it does not rain very often at all.</module></schema>"""
PROMPT = '<prompt schema="trip"><oslo/>Where first?</prompt>'


@pytest.fixture
def client(ray_cluster, tenants):
    with Client(ray_cluster.address, api_key=tenants["all"]) as made:
        yield made


@pytest.fixture
def admin(ray_cluster, tenants):
    with AdminClient(ray_cluster.address, api_key=tenants["all"]) as made:
        yield made


@pytest.fixture
def other(ray_cluster, tenants):
    """Another tenant, who may generate and nothing else."""
    with Client(ray_cluster.address, api_key=tenants["blue"]) as made:
        yield made


def at_once(client, prompts, **more) -> None:
    with ThreadPoolExecutor(len(prompts)) as pool:
        calls = [
            pool.submit(lambda p=prompt: client.generate(p, params(**more)).collect())
            for prompt in prompts
        ]
        assert all(call.result() for call in calls)


def test_the_trees_of_all_engines_are_shown_as_one_and_no_id_is_there_twice(client):
    at_once(client, [f"Tree {index}. {TRUNK}" for index in range(8)], max_tokens=64)
    view = client.trees.get(max_nodes=2048)
    ids = [node.node_id for node in view.nodes]
    assert len(set(ids)) == len(ids)
    assert len({node_id >> 32 for node_id in ids}) == 2
    known = set()
    for node in view.nodes:
        assert node.parent_id is None or node.parent_id in known
        known.add(node.node_id)
    assert len(client.trees.get(max_nodes=3).nodes) == 3
    for watched in client.trees.watch(interval_seconds=0.1):
        assert watched.num_tokens > 0
        break
    assert client.trees.plan(all_namespaces=True).totals is not None


def test_what_goes_on_is_added_up_over_engines_and_ingresses(client):
    options = {"all_namespaces": True}
    before = client.trees.activity(**options).totals
    stream = client.generate(TRUNK, params(max_tokens=600))
    next(stream)
    during = client.trees.activity(**options)
    assert [call.method for call in during.calls] == ["Generate"]
    list(stream)
    after = client.trees.activity(**options).totals
    assert after.drawn_tokens - before.drawn_tokens == 600
    assert after.total_pages == 2 * 512


def test_a_warm_prefix_is_found_by_whoever_begins_with_it(client):
    for index in range(6):
        prefix = f"Warm {index}. {TRUNK}"
        warmed = client.prefixes.warm(prefix)
        assert warmed.num_computed_tokens > warmed.num_tokens - 16
        [found] = client.generate(prefix + "Go on.", params()).collect()
        assert found.usage.cached_tokens >= warmed.num_tokens - 1


def test_retained_prefixes_of_all_engines_are_listed_and_released_by_their_ids(client, other):
    retained = [client.prefixes.retain(f"Keep {index}. {TRUNK}") for index in range(4)]
    ids = {entry.prefixes[0].retained_id for entry in retained}
    listed = client.prefixes.retained()
    assert {entry.retained_id for entry in listed.prefixes} == ids
    assert len(ids) == 4
    with pytest.raises(RemoteError, match="no retained prefix has the id") as unknown:
        client.prefixes.release(12345)
    assert unknown.value.code == "NOT_FOUND"
    with pytest.raises(RemoteError) as refused:
        other.prefixes.release(next(iter(ids)))
    assert refused.value.code == "PERMISSION_DENIED"
    for retained_id in ids:
        client.prefixes.release(retained_id)
    assert client.prefixes.retained().prefixes == ()


def test_prompts_import_modules_that_are_encoded_once(client):
    assert client.modules.put(SCHEMA).existed is False
    assert [entry.name for entry in client.modules.list()] == ["trip"]
    warmed = client.modules.warm("trip")
    assert warmed.num_encoded_tokens == warmed.num_tokens > 0
    for _ in range(4):
        [got] = client.generate(ImportingPrompt(PROMPT), params()).collect()
        assert got.usage.module_tokens > 0
        assert got.usage.encoded_tokens == 0
    tree = PromptTree("Say", (PromptTree(" one."), PromptTree(" two.")), params=params())
    both = client.generate_tree(tree, modules=ImportingPrompt(PROMPT)).collect()
    assert [completion.usage.encoded_tokens for completion in both] == [0, 0]
    with pytest.raises(RemoteError, match="schemas are not saved on Ray Serve") as refused:
        client.modules.save("trip")
    assert refused.value.code == "FAILED_PRECONDITION"
    client.modules.delete("trip")
    with pytest.raises(RemoteError, match="put it first") as gone:
        client.generate(ImportingPrompt(PROMPT), params()).collect()
    assert gone.value.code == "NOT_FOUND"


def test_administration_asks_for_its_permission(ray_cluster, tenants):
    with (
        AdminClient(ray_cluster.address, api_key=tenants["red"]) as stranger,
        pytest.raises(RemoteError, match="'admin' is needed") as refused,
    ):
        stranger.status()
    assert refused.value.code == "PERMISSION_DENIED"


def scrape(address: str, key: str | None) -> str:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://{address}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def test_one_page_has_the_metrics_of_all_engines(client, ray_cluster, tenants):
    client.generate("A metric.", params()).collect()
    page = scrape(ray_cluster.http_address, tenants["all"])
    families = {family.name: family for family in text_string_to_metric_families(page)}

    def by_replica(name: str) -> dict[str, float]:
        return {s.labels["replica"]: s.value for s in families[name].samples}

    sizes = by_replica("treeserve_page_tokens")
    assert set(sizes) == set(ray_cluster.totals())
    assert all(size > 0 for size in sizes.values())
    info = families["treeserve_info"].samples
    assert {sample.labels["model"] for sample in info} == {"embedded"}
    assert sum(sample.value for sample in families["treeserve_requests_finished"].samples) >= 1
    assert sum(by_replica("treeserve_completion_tokens").values()) >= 12


def test_metrics_need_a_key_where_calls_do(ray_cluster, tenants):
    for key, code in ((None, 401), (tenants["red"], 403)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            scrape(ray_cluster.http_address, key)
        with refused.value as answer:
            assert answer.code == code


def test_administration_reaches_every_engine(client, admin, ray_cluster):
    at_once(client, [f"Admin {index}. {TRUNK}" for index in range(4)])
    status = admin.status()
    assert status.phase == "ready"
    assert status.counts["engines"] == 2
    assert status.counts["total_pages"] == 2 * 512
    assert status.options["model"] == "embedded"
    assert admin.clear_cache() > 0
    assert admin.status().counts["cached_pages"] == 0
    before = computed(ray_cluster)
    at_once(client, [f"Admin {index}. {TRUNK}" for index in range(4)])
    assert computed(ray_cluster) > before
    with pytest.raises(RemoteError, match="treeserve calibrate") as refused:
        admin.calibrate(1.0)
    assert refused.value.code == "FAILED_PRECONDITION"
    level = admin.set_log_level("debug")
    assert admin.set_log_level(level or "warning") == "debug"


def test_a_saved_prefix_comes_back_where_prompts_then_go(client, admin, ray_cluster):
    prefix = f"Save this. {TRUNK}"
    client.prefixes.save("mine", prefix)
    assert [entry.name for entry in client.prefixes.saved().prefixes] == ["mine"]
    assert admin.clear_cache() > 0
    wait_until_told(ray_cluster)
    restored = client.prefixes.restore("mine")
    assert restored.num_restored_tokens == restored.num_tokens
    [found] = client.generate(prefix + "Go on.", params()).collect()
    assert found.usage.cached_tokens >= restored.num_tokens - 1
    client.prefixes.delete_saved("mine")
    with pytest.raises(RemoteError) as gone:
        client.prefixes.restore("mine")
    assert gone.value.code == "NOT_FOUND"


def wait_until_told(cluster) -> None:
    """Until the router knows what the engines hold now: what they said before has arrived when
    they have said more."""
    before = {name: totals["reports"] for name, totals in cluster.totals().items()}
    while any(totals["reports"] < before[name] + 2 for name, totals in cluster.totals().items()):
        time.sleep(0.05)
